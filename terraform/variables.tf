variable "project" {
  description = "The Google Cloud project that everything is in. One system a project is simplest; two environments can share one."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.project))
    error_message = "A project is named by its id (6 to 30 of a-z, 0-9 and -), not by its number or its title."
  }
}

variable "environment" {
  description = "prod, test, dev …: the suffix of datasets, and a part of every name. It cannot be changed later."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9]{1,8}$", var.environment))
    error_message = "An environment is 1 to 8 lower-case letters and digits: it is a part of the names of service accounts, which have 30 characters."
  }
}

variable "region" {
  description = "Where functions run, keys and queues are, such as europe-west1."
  type        = string

  validation {
    condition     = can(regex("^[a-z]+-[a-z]+[0-9]+$", var.region))
    error_message = "A region is named like europe-west1, not like a zone (europe-west1-b) or a multi-region (EU)."
  }
}

variable "location" {
  description = "Where datasets and the staging bucket are: a BigQuery location, such as EU, US or europe-west1. It cannot be changed for datasets that exist."
  type        = string

  validation {
    condition     = can(regex("^(EU|US|[a-z]+-[a-z]+[0-9]+)$", var.location))
    error_message = "A location is EU, US or a region such as europe-west1."
  }
}

variable "firestore_location" {
  description = "Where runs and sealed credentials are: a region, or nam5 or eur3. It cannot be changed."
  type        = string
  default     = null
}

variable "image" {
  description = "The image of this release, by digest: REGION-docker.pkg.dev/PROJECT/REPOSITORY/pipelines@sha256:…. null, before there is one: everything but the functions."
  type        = string
  default     = null

  validation {
    condition     = var.image == null || can(regex("^[a-z0-9.-]+(/[a-z0-9._-]+)+@sha256:[0-9a-f]{64}$", var.image))
    error_message = "The image is named by digest (…@sha256:…): a tag may mean another image tomorrow, and no rollback finds the one of today."
  }
}

variable "public_api" {
  description = "Whether the API is called from anywhere, by everybody who has a key. false: through a load balancer or from this project's networks only."
  type        = bool
  default     = true
}

variable "functions" {
  description = "What differs from the table in functions.tf, by function: min_instances, max_instances, concurrency, cpu, memory."
  type = map(object({
    min_instances = optional(number)
    max_instances = optional(number)
    concurrency   = optional(number)
    cpu           = optional(string)
    memory        = optional(string)
  }))
  default  = {}
  nullable = false

  validation {
    condition     = alltrue([for name in keys(var.functions) : contains(["api", "step_worker", "coordinator", "dead_letter", "event_trigger", "scheduler"], name)])
    error_message = "Only the functions of functions.tf can be changed: api, step_worker, coordinator, dead_letter, event_trigger, scheduler."
  }

  validation {
    condition     = alltrue([for each in values(var.functions) : coalesce(each.max_instances, 1) >= coalesce(each.min_instances, 0)])
    error_message = "max_instances is less than min_instances."
  }
}

variable "long_step" {
  description = "The machine of a step with a timeout above 540 s, which runs as an execution of a Cloud Run job."
  type = object({
    cpu    = optional(string, "2")
    memory = optional(string, "4Gi")
  })
  default  = {}
  nullable = false
}

variable "settings" {
  description = "Further settings of every function (docs/operations.md), such as PIPELINES_LOG or PIPELINES_MAX_GB_BILLED. No secret belongs here."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = alltrue([for name in keys(var.settings) : startswith(name, "PIPELINES_")])
    error_message = "Settings are named PIPELINES_…; docs/operations.md lists them."
  }

  validation {
    condition     = !contains(keys(var.settings), "PIPELINES_ACCOUNTS")
    error_message = "PIPELINES_ACCOUNTS holds a password: store it as a version of the secret, as terraform/README.md says."
  }
}

variable "alert_emails" {
  description = "Who is told by email when an alert fires."
  type        = set(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for email in var.alert_emails : can(regex("^[^@\\s]+@[^@\\s]+$", email))])
    error_message = "An element of alert_emails is no email address."
  }
}

variable "failed_runs_in_five_minutes" {
  description = "More failed runs than this in five minutes fire the alert on failed runs."
  type        = number
  default     = 5

  validation {
    condition     = var.failed_runs_in_five_minutes >= 0
    error_message = "A count is not negative."
  }
}

variable "repository" {
  description = "The source of the build trigger: a connected repository (projects/P/locations/L/connections/C/repositories/R) and the branch that is deployed. null: no trigger."
  type = object({
    name     = string
    branch   = optional(string, "main")
    approval = optional(bool, true)
  })
  default = null

  validation {
    condition     = var.repository == null || can(regex("^projects/[^/]+/locations/[^/]+/connections/[^/]+/repositories/[^/]+$", var.repository.name))
    error_message = "The repository is a connected one of Cloud Build: projects/P/locations/L/connections/C/repositories/R."
  }
}

variable "state_bucket" {
  description = "The bucket of the state, which the deployer writes; needed with a repository."
  type        = string
  default     = null

  validation {
    condition     = var.repository == null || var.state_bucket != null
    error_message = "With a repository the deployer needs the name of the state's bucket: set state_bucket."
  }
}

variable "deletion_protection" {
  description = "false lets `terraform destroy` delete services and the database. Keys are never deleted."
  type        = bool
  default     = true
}
