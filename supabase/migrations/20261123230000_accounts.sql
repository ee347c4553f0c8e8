-- Organizations, their plans and API keys, and the quota of runs (shared/accounts/postgres.py).
--
-- The schema is none that PostgREST serves, and only the role pipelines_engine may use it: the keys
-- of a web client (anon, authenticated) reach nothing here, whatever a later release forgets.
-- After the first push give the role its password: alter role pipelines_engine password '...'.

create schema accounts;

-- A function is executable by PUBLIC unless its maker's own default says otherwise: a default of the
-- schema cannot take away what the global one gives. So this holds for all that this role makes.
alter default privileges revoke execute on functions from public;

do $$
begin
    -- roles belong to the server, not to the database: it may be there from another one
    if not exists (select from pg_catalog.pg_roles where rolname = 'pipelines_engine') then
        create role pipelines_engine login;
    end if;
end
$$;

-- Through a transaction pooler no session can set these; as settings of the role they come with the
-- connection. The client waits longer (8 s) than a statement may take.
alter role pipelines_engine set statement_timeout = '5s';
alter role pipelines_engine set lock_timeout = '4s';
alter role pipelines_engine set idle_in_transaction_session_timeout = '10s';

-- --- tables ---

create table accounts.plans (
    name text primary key check (length(name) between 1 and 100),
    daily integer check (daily >= 0),         -- null is unlimited
    monthly integer check (monthly >= 0),
    concurrent integer not null check (concurrent >= 0)
);
comment on table accounts.plans is 'Written by the engine from configs/system/plans.yml.';

create table accounts.organizations (
    slug text primary key check (slug ~ '^[a-z][a-z0-9_]{2,49}$'),
    name text not null check (length(name) between 1 and 200),
    -- Any word: what billing writes here and the engine does not know, may not run.
    status text not null default 'ACTIVE',
    plan text not null references accounts.plans (name),
    -- limits of its own, in place of its plan's, are there when own_concurrent is
    own_daily integer check (own_daily >= 0),
    own_monthly integer check (own_monthly >= 0),
    own_concurrent integer check (own_concurrent >= 0),
    created_at timestamptz not null,
    constraint own_limits_are_whole
        check (own_concurrent is not null or (own_daily is null and own_monthly is null))
);
create index organizations_plan on accounts.organizations (plan);

-- One row for each organization, updated by every run: half-empty pages keep those updates in place.
create table accounts.usage (
    org text primary key references accounts.organizations (slug),
    concurrent integer not null default 0 check (concurrent >= 0),
    -- the UTC day that `today` counts; its month is the one that `this_month` counts
    day date not null default '-infinity',
    today integer not null default 0 check (today >= 0),
    this_month integer not null default 0,
    succeeded bigint not null default 0 check (succeeded >= 0),
    failed bigint not null default 0 check (failed >= 0),
    constraint a_day_is_part_of_its_month check (this_month >= today)
) with (
    fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500
);

-- Never deleted when a run ends: a row that is over is what makes twice once.
create table accounts.reservations (
    run_id text primary key check (length(run_id) between 1 and 200),
    org text not null references accounts.usage (org),
    status text not null,
    outcome text,                             -- set once: succeeded, failed, or never (it never was)
    day date,                                 -- where it was counted, to give back there or nowhere
    created_at timestamptz not null,
    expires_at timestamptz not null,
    confirmed boolean not null default false, -- its run is known to exist
    constraint status_and_outcome_agree check (
        case status
            when 'held' then outcome is null
            when 'settled' then outcome is not null and outcome in ('succeeded', 'failed')
            when 'expired' then outcome is null or outcome in ('succeeded', 'failed', 'never')
            when 'released' then outcome is not null and outcome = 'never'
            when 'void' then outcome is null and not confirmed
            else false
        end
    ),
    constraint only_a_void_one_was_never_counted check ((day is null) = (status = 'void'))
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);

-- As large as the number of runs at work, however many there ever were.
create index reservations_held on accounts.reservations (org, expires_at) where status = 'held';
create index reservations_unconfirmed on accounts.reservations (created_at)
    where status = 'held' and not confirmed;

create table accounts.api_keys (
    key_id text primary key check (key_id ~ '^[0-9a-f]{12}$'),
    secret_hash bytea not null check (length(secret_hash) = 32),
    org text references accounts.organizations (slug),  -- null is the platform's own
    name text not null check (length(name) between 1 and 200),
    scopes text[] not null check (cardinality(scopes) > 0),
    created_at timestamptz not null,
    expires_at timestamptz check (expires_at > created_at),
    revoked_at timestamptz,
    last_used_at timestamptz
);
create index api_keys_org on accounts.api_keys (org);

-- What holds for an organization now: its own limits or its plan's, so that no copy can be stale.
create view accounts.standings with (security_invoker = true) as
select
    o.slug,
    o.name,
    o.status,
    o.plan,
    case when o.own_concurrent is null then p.daily else o.own_daily end as daily,
    case when o.own_concurrent is null then p.monthly else o.own_monthly end as monthly,
    coalesce(o.own_concurrent, p.concurrent) as concurrent,
    o.created_at
from accounts.organizations as o
join accounts.plans as p on p.name = o.plan;

-- --- the quota ---
-- Lock order: the usage row first, reservations second, so that no two of these can deadlock. Under
-- that lock every statement sees what the last holder committed. The time is the caller's, and its
-- day and month are UTC's whatever the session says.

-- answer: reserved (expires_at), spent (status), foreign (another organization has the run id), or
-- refused. Then status and standing say why: the limits of day, month and concurrency, and what is used
-- of concurrency, day and month; status is null for an organization that does not exist.
create function accounts.reserve(
    p_run_id text,
    p_org text,
    p_now timestamptz,
    p_expires_at timestamptz,
    out answer text,
    out status text,
    out expires_at timestamptz,
    out standing integer[]
)
language plpgsql
set search_path = ''
as $$
declare
    the_day constant date := (p_now at time zone 'UTC')::date;
    the_month constant date := date_trunc('month', the_day::timestamp)::date;
    lapsed integer;
    holder text;
    counted_on date;
begin
    -- The first look takes no lock before it writes, and nearly always admits. What is in its way is
    -- seen to under the lock of the usage row; then the second look is the last word, and the reason
    -- that it gives is the one that held.
    for look in 1 .. 2 loop
        -- The whole decision in one statement. The day only ever rolls forward: a caller whose clock
        -- is behind midnight counts on the newer day instead of wiping it.
        update accounts.usage as u set
            concurrent = u.concurrent + 1,
            today = case when u.day >= the_day then u.today else 0 end + 1,
            this_month = case when u.day >= the_month then u.this_month else 0 end + 1,
            day = greatest(u.day, the_day)
        from accounts.standings as s
        where u.org = p_org and s.slug = u.org
            and s.status in ('ACTIVE', 'TRIAL')
            and u.concurrent < s.concurrent
            and (s.daily is null or case when u.day >= the_day then u.today else 0 end < s.daily)
            and (
                s.monthly is null
                or case when u.day >= the_month then u.this_month else 0 end < s.monthly
            )
            and not exists (select from accounts.reservations as r where r.run_id = p_run_id)
            and not exists (
                select from accounts.reservations as r
                where r.org = p_org and r.status = 'held' and r.expires_at < p_now
            )
        returning u.day into counted_on;
        if found then
            insert into accounts.reservations as r (run_id, org, status, day, created_at, expires_at)
            values (p_run_id, p_org, 'held', counted_on, p_now, p_expires_at)
            on conflict do nothing;
            if found then
                answer := 'reserved';
                expires_at := p_expires_at;
                return;
            end if;
            -- The same run id came first while this waited for the usage row.
            update accounts.usage as u set
                concurrent = u.concurrent - 1, today = u.today - 1, this_month = u.this_month - 1
            where u.org = p_org;
        end if;
        exit when look = 2;

        perform from accounts.usage as u where u.org = p_org for no key update;
        exit when not found;
        update accounts.reservations as r set status = 'expired'
        where r.org = p_org and r.status = 'held' and r.expires_at < p_now;
        get diagnostics lapsed = row_count;
        if lapsed > 0 then
            update accounts.usage as u set concurrent = u.concurrent - lapsed where u.org = p_org;
        end if;
        select r.org, r.status, r.expires_at into holder, status, expires_at
        from accounts.reservations as r where r.run_id = p_run_id;
        if found then
            answer := case
                when holder <> p_org then 'foreign'
                when status = 'held' then 'reserved'
                else 'spent'
            end;
            return;
        end if;
    end loop;

    answer := 'refused';
    select s.status, array[
        s.daily, s.monthly, s.concurrent, u.concurrent,
        case when u.day >= the_day then u.today else 0 end,
        case when u.day >= the_month then u.this_month else 0 end
    ]
    into status, standing
    from accounts.standings as s join accounts.usage as u on u.org = s.slug
    where s.slug = p_org;
end
$$;

-- Ends a reservation once: settled with succeeded or failed, released with never. A held one frees
-- its slot, an expired one did; `p_back` gives the day and the month back. Where there is none, an
-- organization (settle names one, release none) gets a void row, which refuses a reserve in flight.
create function accounts.finish(
    p_run_id text,
    p_org text,
    p_now timestamptz,
    p_status text,
    p_outcome text,
    p_back boolean
)
returns void
language plpgsql
set search_path = ''
as $$
declare
    r record;
begin
    select x.org, x.outcome is not null or x.status = 'void' as over into r
    from accounts.reservations as x where x.run_id = p_run_id;
    if r.over then
        return;
    end if;

    perform from accounts.usage as u where u.org = coalesce(r.org, p_org) for no key update;
    if not found then
        return;  -- nothing can be reserved for an organization that does not exist
    end if;

    update accounts.reservations as x set
        outcome = p_outcome,
        status = case when x.status = 'held' then p_status else x.status end
    where x.run_id = p_run_id and x.outcome is null and x.status in ('held', 'expired')
    returning x.org, x.status, x.day into r;
    if not found then
        insert into accounts.reservations (run_id, org, status, created_at, expires_at)
        select p_run_id, p_org, 'void', p_now, p_now where p_org is not null
        on conflict (run_id) do nothing;
        return;
    end if;

    update accounts.usage as u set
        concurrent = u.concurrent - (r.status <> 'expired')::integer,
        succeeded = u.succeeded + (p_outcome = 'succeeded')::integer,
        failed = u.failed + (p_outcome = 'failed')::integer,
        today = u.today - (p_back and u.day = r.day)::integer,
        this_month = u.this_month - (
            p_back
            and date_trunc('month', u.day::timestamp) = date_trunc('month', r.day::timestamp)
        )::integer
    where u.org = r.org;
end
$$;

-- Expires what every organization holds past its time; how many. An organization whose row is locked
-- is at work and sweeps itself, or waits for the next tick.
create function accounts.sweep(p_now timestamptz)
returns integer
language plpgsql
set search_path = ''
as $$
declare
    orgs text[];
    swept integer;
begin
    select array_agg(free.org) into orgs
    from (
        select u.org from accounts.usage as u
        where u.org in (
            select r.org from accounts.reservations as r
            where r.status = 'held' and r.expires_at < p_now
        )
        for no key update skip locked
    ) as free;
    with lapsed as (
        update accounts.reservations as r set status = 'expired'
        where r.org = any (orgs) and r.status = 'held' and r.expires_at < p_now
        returning r.org
    ), freed as (
        update accounts.usage as u set concurrent = u.concurrent - l.slots
        from (select x.org, count(*)::integer as slots from lapsed as x group by x.org) as l
        where u.org = l.org
        returning l.slots
    )
    select coalesce(sum(f.slots), 0) into swept from freed as f;
    return swept;
end
$$;

-- --- who may what ---

alter table accounts.plans enable row level security;
alter table accounts.organizations enable row level security;
alter table accounts.usage enable row level security;
alter table accounts.reservations enable row level security;
alter table accounts.api_keys enable row level security;

create policy engine on accounts.plans to pipelines_engine using (true) with check (true);
create policy engine on accounts.organizations to pipelines_engine using (true) with check (true);
create policy engine on accounts.usage to pipelines_engine using (true) with check (true);
create policy engine on accounts.reservations to pipelines_engine using (true) with check (true);
create policy engine on accounts.api_keys to pipelines_engine using (true) with check (true);

revoke all on schema accounts from public, anon, authenticated;
revoke all on all tables in schema accounts from public, anon, authenticated;
revoke all on all functions in schema accounts from public, anon, authenticated;
alter default privileges in schema accounts revoke all on tables from public, anon, authenticated;
alter default privileges in schema accounts revoke all on functions from public, anon, authenticated;
alter default privileges in schema accounts revoke all on sequences from public, anon, authenticated;

grant usage on schema accounts to pipelines_engine;
-- nothing is ever deleted by the engine
grant select, insert, update
    on accounts.plans, accounts.organizations, accounts.usage, accounts.reservations, accounts.api_keys
    to pipelines_engine;
grant select on accounts.standings to pipelines_engine;
grant execute on all functions in schema accounts to pipelines_engine;
