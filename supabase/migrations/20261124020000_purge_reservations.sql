-- The engine may delete reservations, once they are over (shared/accounts/postgres.py: purge).
--
-- It deletes those that are older than the runs are kept. Whatever a later release sends: one that
-- holds a slot, or anything else of this schema, it cannot delete.

grant delete on accounts.reservations to pipelines_engine;

create policy only_what_is_over on accounts.reservations
    as restrictive for delete to pipelines_engine
    using (status <> 'held');

-- Grows when a run ends, so that it costs nothing when one is admitted.
create index reservations_over on accounts.reservations (created_at) where status <> 'held';
