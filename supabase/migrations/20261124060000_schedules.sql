-- Which organization runs which pipeline when, and what was not started (shared/schedules/postgres.py).

create table accounts.schedules (
    org text not null references accounts.organizations (slug),
    schedule_id text not null check (length(schedule_id) between 1 and 63),
    version integer not null check (version > 0),
    due_at timestamptz,                       -- null is never
    -- as text: what was written is what is compared, to the last digit of its times
    enrolment text not null check (enrolment::jsonb is not null),
    primary key (org, schedule_id)
);
create index schedules_due on accounts.schedules (due_at) where due_at is not null;

create table accounts.skipped (
    org text not null references accounts.organizations (slug),
    schedule_id text not null,
    first timestamptz not null,
    reason text not null check (length(reason) between 1 and 63),
    skipped text not null,
    primary key (org, schedule_id, first, reason)
);

alter table accounts.schedules enable row level security;
alter table accounts.skipped enable row level security;
create policy engine on accounts.schedules to pipelines_engine using (true) with check (true);
create policy engine on accounts.skipped to pipelines_engine using (true) with check (true);
revoke all on accounts.schedules, accounts.skipped from public, anon, authenticated;
grant select, insert, update, delete on accounts.schedules to pipelines_engine;
grant select, insert on accounts.skipped to pipelines_engine;
