# The system that organizations use. Put your `alert_emails` and, for deployments by Cloud Build, your
# `repository` here: what is not in this file, a build takes away again.
environment = "prod"
region      = "europe-west1"
location    = "EU"

functions = {
  api = { min_instances = 1 } # the first call of a morning is not the slow one
}
