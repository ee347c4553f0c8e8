-- Who changed what, and when (shared/accounts: audit). Entries are added, never changed or deleted.

create table accounts.audit (
    entry text primary key check (length(entry) between 1 and 100),  -- one a change, however often sent
    at timestamptz not null,
    org text,                                 -- null is the platform's own
    key_id text not null,
    key_name text not null,
    request_id text not null,
    verb text not null check (length(verb) between 1 and 100),
    target text not null check (length(target) between 1 and 1000),
    before jsonb,
    after jsonb
);
comment on table accounts.audit is 'Changes through /admin, with what was before and after. No secrets.';
create index audit_newest on accounts.audit (at desc, entry collate "C" desc);
create index audit_of_org on accounts.audit (org, at desc, entry collate "C" desc);

alter table accounts.audit enable row level security;
create policy engine on accounts.audit to pipelines_engine using (true) with check (true);
revoke all on accounts.audit from public, anon, authenticated;
grant select, insert on accounts.audit to pipelines_engine;
