{{ config(unique_key='user_id') }}

{{ version_history(
    'users',
    presence='registered_at',
    defaults={'email': "'unknown@example.com'", 'is_email_valid': 'false'}
) }}

select * from history_rows
