terraform {
  required_version = ">= 1.11"

  required_providers {
    google = {
      source  = "hashicorp/google"
      version = ">= 6.50, < 9.0"
    }
  }

  # Which bucket and prefix is said at `terraform init -backend-config=environments/ENV.gcs.hcl`.
  backend "gcs" {}
}

provider "google" {
  project = var.project
  region  = var.region

  default_labels = {
    system      = "pipelines"
    environment = var.environment
  }
}

data "google_project" "this" {
  project_id = var.project
}
