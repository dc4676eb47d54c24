{{ config(unique_key='user_id') }}

{{ current_versions('users', presence='registered_at') }}

select * from current_rows
