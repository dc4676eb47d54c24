{{ config(unique_key='event_id') }}

{{ current_versions(
    'events',
    presence='event_type',
    more={
        'first_received_at':
            "min(case when _stands = 1 and _operation = 'upsert' then _version_at end) over of_key"
    }
) }}

select * from current_rows
