// Package plugin is the kube-scheduler plugin Lifeboat: it gives the successor
// of a lost pod its Migration, and the node on which the pod's checkpoint can
// be restored fastest.
//
// Pods without the annotation lifeboat.dev/failover: "true" pass through it
// untouched and without any call to the API server.
package plugin
