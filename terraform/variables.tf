variable "image" {
  description = "Lifeboat's image, as registry/name:tag."
  type        = string
}

variable "manifests" {
  description = "Folder with Lifeboat's manifests."
  type        = string
  default     = null
}
