package watcher

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/kubernetes"

	"github.com/lifeboat-dev/lifeboat/identity"
)

const (
	// answerWithin is how long the API server may take to answer.
	answerWithin = 5 * time.Second
	// askAgainAfter is how long it takes until it is asked again.
	askAgainAfter = time.Second
)

// ensureIdentity gets Lifeboat's identity, and waits for it as long as the API server
// cannot be reached: a watcher that ended instead would be held back by its kubelet,
// for up to five minutes, also when the API server is back. Meanwhile it says at
// address that it lives and is not ready.
func ensureIdentity(ctx context.Context, clientset kubernetes.Interface, namespace, address string, log *slog.Logger) (*identity.Authority, error) {
	ask := func() (*identity.Authority, error) {
		ctx, cancel := context.WithTimeout(ctx, answerWithin)
		defer cancel()
		return identity.Ensure(ctx, clientset, namespace)
	}
	authority, err := ask()
	if !unreachable(err) {
		return authority, err
	}
	listener, listenErr := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if listenErr != nil {
		return nil, errors.Join(err, fmt.Errorf("answer the kubelet's probes: %w", listenErr))
	}
	probed := http.NewServeMux()
	probed.HandleFunc("/healthz", (&health{}).alive)
	probed.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "the API server cannot be reached", http.StatusServiceUnavailable)
	})
	server := &http.Server{Handler: probed, ReadHeaderTimeout: time.Second}
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(listener) }()
	defer func() { _ = server.Close(); <-served }()
	for log.Warn("waiting for the API server", "err", err); unreachable(err); authority, err = ask() {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(askAgainAfter):
		}
	}
	if err == nil {
		log.Info("the API server answers again")
	}
	return authority, err
}

// unreachable says whether an error of a request is no answer, or none of a server
// that is well.
func unreachable(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) {
		return false
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return true
	}
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		var network net.Error
		return errors.As(err, &network)
	}
	return apierrors.IsServerTimeout(err) || apierrors.IsTimeout(err) || apierrors.IsServiceUnavailable(err) ||
		apierrors.IsInternalError(err) || apierrors.IsTooManyRequests(err)
}
