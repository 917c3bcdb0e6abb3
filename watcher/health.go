package watcher

import (
	"context"
	"io"
	"net/http"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
)

// health answers the kubelet's probes.
type health struct {
	cache   cache.Cache
	webhook webhook.Server
}

// alive answers as long as the process serves at all.
func (h *health) alive(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok\n") }

// ready answers when the watcher knows the cluster and admits pods.
func (h *health) ready(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), time.Second)
	defer cancel()
	if !h.cache.WaitForCacheSync(ctx) {
		http.Error(w, "the cluster's state has not been read yet", http.StatusServiceUnavailable)
		return
	}
	if err := h.webhook.StartedChecker()(r); err != nil {
		http.Error(w, "the webhook does not answer: "+err.Error(), http.StatusServiceUnavailable)
		return
	}
	_, _ = io.WriteString(w, "ok\n")
}
