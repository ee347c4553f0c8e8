-- SaaS subscriptions (shared/subscriptions): revisions, each a subscription whole as a change left it.
-- Revisions are added, never changed or deleted: what was entered, by whom and when, stays to be seen.

create table accounts.subscriptions (
    org text not null references accounts.organizations (slug),
    subscription_id text not null check (subscription_id ~ '^[a-z0-9][a-z0-9_.-]{0,62}$'),
    number integer not null check (number > 0),  -- the highest one holds
    revision jsonb not null,
    primary key (org, subscription_id, number),
    constraint a_revision_says_whose_it_is check (
        (revision -> 'number')::integer = number
        and revision -> 'subscription' ->> 'subscription_id' = subscription_id
    )
);
comment on table accounts.subscriptions is 'Plans, seats and prices of an organization''s subscriptions.';
create index subscriptions_newest
    on accounts.subscriptions (org, subscription_id collate "C", number desc);

-- Adds all of them with their audit entries, at most one of each subscription, or nothing: false when one
-- does not follow the newest of its subscription. What is there already counts as added. Organizations
-- wait for none but themselves.
create function accounts.add_revisions(p_org text, p_revisions jsonb[]) returns boolean
language plpgsql set search_path = '' as $$
begin
    perform pg_advisory_xact_lock(hashtextextended('subscriptions of ' || p_org, 0));
    -- Below the lock each statement sees what its last holder committed.
    if exists (
        select from unnest(p_revisions) as given (revision)
        where not exists (
            select from accounts.subscriptions as s
            where s.org = p_org
                and s.subscription_id = given.revision -> 'subscription' ->> 'subscription_id'
                and s.revision = given.revision
        ) and (given.revision -> 'number')::integer <> 1 + (
            select coalesce(max(s.number), 0) from accounts.subscriptions as s
            where s.org = p_org
                and s.subscription_id = given.revision -> 'subscription' ->> 'subscription_id'
        )
    ) then
        return false;
    end if;
    insert into accounts.subscriptions (org, subscription_id, number, revision)
    select
        p_org,
        given.revision -> 'subscription' ->> 'subscription_id',
        (given.revision -> 'number')::integer,
        given.revision
    from unnest(p_revisions) as given (revision)
    on conflict do nothing;
    insert into accounts.audit
        (entry, at, org, key_id, key_name, request_id, verb, target, before, after)
    select
        given.revision ->> 'entry',
        (given.revision ->> 'at')::timestamptz,
        p_org,
        given.revision ->> 'key_id',
        given.revision ->> 'key_name',
        given.revision ->> 'request_id',
        given.revision ->> 'verb',
        given.revision -> 'subscription' ->> 'subscription_id',
        nullif(given.revision -> 'before', 'null'),
        nullif(given.revision -> 'after', 'null')
    from unnest(p_revisions) as given (revision)
    on conflict do nothing;
    return true;
end
$$;

alter table accounts.subscriptions enable row level security;
create policy engine on accounts.subscriptions to pipelines_engine using (true) with check (true);
revoke all on accounts.subscriptions from public, anon, authenticated;
revoke all on function accounts.add_revisions from public, anon, authenticated;
grant select, insert on accounts.subscriptions to pipelines_engine;
grant execute on function accounts.add_revisions to pipelines_engine;
