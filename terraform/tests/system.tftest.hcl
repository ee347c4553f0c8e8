# What must hold of every plan. No cloud is asked: `terraform test`.
mock_provider "google" {
  override_during = plan

  mock_data "google_project" {
    defaults = { number = "123456789012" }
  }

  mock_resource "google_service_account" {
    defaults = {
      name   = "projects/a-project/serviceAccounts/one@a-project.iam.gserviceaccount.com"
      email  = "one@a-project.iam.gserviceaccount.com"
      member = "serviceAccount:one@a-project.iam.gserviceaccount.com"
      id     = "projects/a-project/serviceAccounts/one@a-project.iam.gserviceaccount.com"
    }
  }

  mock_resource "google_cloud_run_v2_service" {
    defaults = { uri = "https://one-abc-ew.a.run.app" }
  }

  mock_resource "google_pubsub_topic" {
    defaults = { id = "projects/a-project/topics/one" }
  }
}

variables {
  project     = "a-project"
  environment = "prod"
  region      = "europe-west1"
  location    = "EU"
  image       = "europe-west1-docker.pkg.dev/a-project/pipelines-prod/pipelines@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
}

run "pushes_are_authenticated_and_dead_lettered" {
  command = plan

  assert {
    condition = alltrue([
      for subscription in google_pubsub_subscription.push :
      subscription.push_config[0].oidc_token[0].service_account_email == google_service_account.this["pusher"].email
      && subscription.push_config[0].oidc_token[0].audience == subscription.push_config[0].push_endpoint
    ])
    error_message = "a push without the pusher's token for its own endpoint"
  }

  assert {
    condition = alltrue([
      for topic, subscription in google_pubsub_subscription.push :
      join("", subscription.dead_letter_policy[*].dead_letter_topic) == (topic == "dead-letters" ? "" : google_pubsub_topic.this["dead-letters"].id)
    ])
    error_message = "a subscription that drops what it gives up, or gives dead letters up to their own topic"
  }

  assert {
    condition     = alltrue([for subscription in google_pubsub_subscription.push : subscription.expiration_policy[0].ttl == ""])
    error_message = "a subscription that expires in a quiet month"
  }

  assert {
    condition = alltrue([
      for topic, subscription in google_pubsub_subscription.push :
      "${subscription.ack_deadline_seconds}s" == google_cloud_run_v2_service.this[local.subscribers[topic]].template[0].timeout
    ])
    error_message = "an ack deadline that is not the timeout of the function: sooner, and a second copy runs beside the first"
  }

  assert {
    condition     = toset([for member in google_pubsub_subscription_iam_member.pubsub_moves : member.role]) == toset(["roles/pubsub.subscriber"]) && length(google_pubsub_subscription_iam_member.pubsub_moves) == length(google_pubsub_subscription.push) - 1
    error_message = "Pub/Sub could not move what it gives up"
  }
}

run "the_tick_is_authenticated" {
  command = plan

  assert {
    condition     = google_cloud_scheduler_job.tick["scheduler"].http_target[0].oidc_token[0].audience == google_cloud_scheduler_job.tick["scheduler"].http_target[0].uri
    error_message = "the tick comes without a token for its endpoint"
  }

  assert {
    condition     = google_cloud_scheduler_job.tick["scheduler"].schedule == "* * * * *"
    error_message = "the tick is not every minute"
  }
}

run "only_the_api_is_public" {
  command = plan

  assert {
    condition     = toset(keys(google_cloud_run_v2_service_iam_member.everybody)) == toset(["api"])
    error_message = "everybody may call more than the API"
  }

  assert {
    condition = alltrue([
      for name, service in google_cloud_run_v2_service.this :
      name == "api" || service.ingress == "INGRESS_TRAFFIC_INTERNAL_ONLY"
    ])
    error_message = "a function besides the API can be reached from the internet"
  }

  assert {
    condition = alltrue([
      for name, member in google_cloud_run_v2_service_iam_member.pusher :
      member.member == google_service_account.this["pusher"].member && member.role == "roles/run.invoker"
    ])
    error_message = "somebody besides the pusher may call a function"
  }
}

run "an_api_behind_a_load_balancer_is_not_public" {
  command = plan

  variables {
    public_api = false
  }

  assert {
    condition     = google_cloud_run_v2_service.this["api"].ingress == "INGRESS_TRAFFIC_INTERNAL_LOAD_BALANCER"
    error_message = "public_api = false leaves the API open"
  }
}

run "each_function_pays_for_requests_and_runs_as_itself" {
  command = plan

  assert {
    condition     = alltrue([for service in google_cloud_run_v2_service.this : service.template[0].containers[0].resources[0].cpu_idle])
    error_message = "a function that is paid for by the instance"
  }

  assert {
    condition = alltrue([
      for service in google_cloud_run_v2_service.this :
      one([for env in service.template[0].containers[0].env : env.value if env.name == "THREADS"]) == tostring(service.template[0].max_instance_request_concurrency)
    ])
    error_message = "a function with fewer threads than requests at a time"
  }

  assert {
    condition     = toset(keys(google_service_account.this)) == setunion(keys(local.functions), ["step_job", "pusher", "tasks"])
    error_message = "a function without an account of its own, or an account without a use"
  }

  assert {
    condition     = alltrue([for account in google_service_account.this : length(account.account_id) <= 30])
    error_message = "the name of a service account has at most 30 characters"
  }
}

run "roles_are_these_and_no_others" {
  command = plan

  assert {
    condition = !anytrue([
      for role in concat(
        [for member in google_project_iam_member.state : member.role],
        [for member in google_project_iam_member.warehouse : member.role],
      ) : contains(["roles/owner", "roles/editor", "roles/viewer"], role)
    ])
    error_message = "a primitive role"
  }

  assert {
    condition     = alltrue([for member in google_project_iam_member.state : member.condition[0].expression == "resource.name == \"projects/a-project/databases/pipelines-prod\""])
    error_message = "a function may read the database of another environment"
  }

  assert {
    condition     = toset([for key, member in google_kms_crypto_key_iam_member.data_keys : key if member.role != "roles/cloudkms.cryptoKeyDecrypter"]) == toset(["api"])
    error_message = "a function besides the API may seal credentials"
  }

  assert {
    condition     = toset([for key, member in google_project_iam_member.warehouse : member.role if startswith(key, "api ")]) == toset(["roles/bigquery.jobUser", "roles/bigquery.dataViewer"])
    error_message = "the API may write to the warehouse"
  }
}

run "a_deployer_exists_with_a_repository_only" {
  command = plan

  variables {
    repository   = { name = "projects/a-project/locations/europe-west1/connections/c/repositories/r" }
    state_bucket = "a-bucket"
  }

  assert {
    condition     = google_cloudbuild_trigger.deploy[0].approval_config[0].approval_required
    error_message = "production is deployed without an approval"
  }

  assert {
    condition     = !anytrue([for role in keys(google_project_iam_member.deployer) : contains(["roles/owner", "roles/editor", "roles/viewer"], role)])
    error_message = "the deployer has a primitive role"
  }
}

run "without_an_image_there_is_all_but_the_functions" {
  command = plan

  variables {
    image = null
  }

  assert {
    condition     = length(google_cloud_run_v2_service.this) + length(google_cloud_run_v2_job.step) + length(google_pubsub_subscription.push) + length(google_cloud_scheduler_job.tick) == 0
    error_message = "something wants an image that is not there"
  }

  assert {
    condition     = length(google_pubsub_topic.this) == 5 && length(google_service_account.this) == length(local.functions) + 3
    error_message = "topics and accounts do not wait for an image"
  }
}

run "an_image_by_tag_is_refused" {
  command = plan

  variables {
    image = "europe-west1-docker.pkg.dev/a-project/pipelines-prod/pipelines:latest"
  }

  expect_failures = [var.image]
}

run "a_password_among_the_settings_is_refused" {
  command = plan

  variables {
    settings = { PIPELINES_ACCOUNTS = "postgresql://host/db" }
  }

  expect_failures = [var.settings]
}

run "an_environment_that_makes_names_too_long_is_refused" {
  command = plan

  variables {
    environment = "integration"
  }

  expect_failures = [var.environment]
}

run "a_function_that_is_none_is_refused" {
  command = plan

  variables {
    functions = { worker = { max_instances = 3 } }
  }

  expect_failures = [var.functions]
}

run "a_repository_without_its_state_is_refused" {
  command = plan

  variables {
    repository = { name = "projects/a-project/locations/europe-west1/connections/c/repositories/r" }
  }

  expect_failures = [var.state_bucket]
}
