output "api_url" {
  description = "PIPELINES_URL of the command line; the address organizations call."
  value       = one([for name, service in google_cloud_run_v2_service.this : service.uri if name == "api"])
}

output "accounts_secret" {
  description = "The secret that wants the DSN of Postgres as its first version."
  value       = google_secret_manager_secret.accounts.id
}

output "images" {
  description = "Where images are pushed to."
  value       = "${var.region}-docker.pkg.dev/${var.project}/${google_artifact_registry_repository.images.repository_id}/pipelines"
}

output "functions" {
  description = "The Cloud Run service of each function."
  value       = { for name, service in google_cloud_run_v2_service.this : name => service.name }
}

output "image" {
  description = "What runs: the digest to go back to."
  value       = var.image
}

output "settings" {
  description = "The settings of the functions, as `env` takes them; the DSN of Postgres is not among them."
  value       = join(" ", [for name, value in local.settings : "${name}=${value}"])
}
