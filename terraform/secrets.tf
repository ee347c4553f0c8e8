# The places of secrets. Their values are stored by hand (README.md) and stand in no state.
resource "google_secret_manager_secret" "accounts" {
  secret_id = "${local.prefix}-accounts"

  replication {
    auto {}
  }

  depends_on = [google_project_service.this]
}

# What cloudbuild.yaml needs: the DSN of Postgres as the owner of its schema, and an operator's API key.
resource "google_secret_manager_secret" "deployment" {
  for_each = var.repository == null ? toset([]) : toset(["migrations", "smoke-key"])

  secret_id = "${local.prefix}-${each.key}"

  replication {
    auto {}
  }

  depends_on = [google_project_service.this]
}

resource "google_secret_manager_secret_iam_member" "deployment" {
  for_each = google_secret_manager_secret.deployment

  secret_id = each.value.secret_id
  role      = "roles/secretmanager.secretAccessor"
  member    = google_service_account.this["deployer"].member
}
