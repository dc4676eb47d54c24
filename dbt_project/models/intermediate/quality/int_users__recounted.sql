{{ config(unique_key='user_id') }}

{{ recounted('users') }}

select * from recounted_rows
