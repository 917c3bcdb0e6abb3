// Package v1alpha1 holds Lifeboat's API: the Checkpoint, Migration and Fence
// kinds, the annotations that users write on pods, and their validation.
//
// It imports nothing of Lifeboat; everything else may import it.
//
// +kubebuilder:object:generate=true
// +groupName=lifeboat.dev
package v1alpha1
