# Who may do what: one line an account and a thing. What is not here is not granted. Beside it stand the
# invoker (functions.tf), the starter of the job (jobs.tf), and Pub/Sub's own agent (messages.tf).
locals {
  # Topics that a function publishes to. The API starts runs, cancels them and sends dead letters again;
  # coordinator and API alike bring a run on, to its end.
  publishes = {
    api           = ["starts", "steps", "completions", "run-events"]
    step_worker   = ["completions"]
    step_job      = ["completions"]
    coordinator   = ["steps", "run-events"]
    scheduler     = ["starts", "completions"]
    event_trigger = ["steps", "run-events"]
    tasks         = ["starts", "steps", "completions"]
  }

  # Who makes tasks that publish later: a retry with its delay.
  delays = ["api", "coordinator", "event_trigger"]

  # Runs, attempts, logs, sealed credentials, dead letters.
  state = ["api", "step_worker", "step_job", "coordinator", "dead_letter", "event_trigger", "scheduler"]

  # A worker opens what it needs for its step; the API seals, and wraps anew.
  keys = {
    api         = "roles/cloudkms.cryptoKeyEncrypterDecrypter"
    step_worker = "roles/cloudkms.cryptoKeyDecrypter"
    step_job    = "roles/cloudkms.cryptoKeyDecrypter"
  }

  # A worker makes datasets and fills them: it and its job work on the same ones. The API reads.
  warehouse = merge([
    for account, roles in {
      step_worker = ["roles/bigquery.jobUser", "roles/bigquery.dataEditor"]
      step_job    = ["roles/bigquery.jobUser", "roles/bigquery.dataEditor"]
      api         = ["roles/bigquery.jobUser", "roles/bigquery.dataViewer"]
    } : { for role in roles : "${account} ${role}" => { account = account, role = role } }
  ]...)

  staging = ["step_worker", "step_job"]
}

resource "google_pubsub_topic_iam_member" "publisher" {
  for_each = merge([
    for account, topics in local.publishes :
    { for topic in topics : "${account} ${topic}" => { account = account, topic = topic } }
  ]...)

  topic  = google_pubsub_topic.this[each.value.topic].name
  role   = "roles/pubsub.publisher"
  member = google_service_account.this[each.value.account].member
}

resource "google_cloud_tasks_queue_iam_member" "enqueuer" {
  for_each = toset(local.delays)

  name     = google_cloud_tasks_queue.later.name
  location = var.region
  role     = "roles/cloudtasks.enqueuer"
  member   = google_service_account.this[each.key].member
}

# A task is made in the name of the account that it will publish as.
resource "google_service_account_iam_member" "acts_as_tasks" {
  for_each = toset(local.delays)

  service_account_id = google_service_account.this["tasks"].name
  role               = "roles/iam.serviceAccountUser"
  member             = google_service_account.this[each.key].member
}

resource "google_project_iam_member" "state" {
  for_each = toset(local.state)

  project = var.project
  role    = "roles/datastore.user"
  member  = google_service_account.this[each.key].member

  condition {
    title       = "the database of ${local.prefix}"
    description = "Another environment of this project has a database of its own."
    expression  = "resource.name == \"projects/${var.project}/databases/${google_firestore_database.this.name}\""
  }
}

resource "google_kms_crypto_key_iam_member" "data_keys" {
  for_each = local.keys

  crypto_key_id = google_kms_crypto_key.data_keys.id
  role          = each.value
  member        = google_service_account.this[each.key].member
}

resource "google_secret_manager_secret_iam_member" "accounts" {
  for_each = toset(local.state) # every function reads its settings whole

  secret_id = google_secret_manager_secret.accounts.secret_id
  role      = "roles/secretmanager.secretAccessor"
  member    = google_service_account.this[each.key].member
}

resource "google_project_iam_member" "warehouse" {
  for_each = local.warehouse

  project = var.project
  role    = each.value.role
  member  = google_service_account.this[each.value.account].member
}

resource "google_storage_bucket_iam_member" "staging" {
  for_each = toset(local.staging)

  bucket = google_storage_bucket.staging.name
  role   = "roles/storage.objectUser"
  member = google_service_account.this[each.key].member
}
