package admission

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// ConfigurationName is the name of the MutatingWebhookConfiguration.
const ConfigurationName = "lifeboat"

const (
	bundleRetry = 2 * time.Second
	bundleCheck = 30 * time.Second
)

// Bundle keeps the authority's certificate in the webhook's configuration, so
// that the API server trusts the webhook: whoever applies the manifest again
// empties it.
type Bundle struct {
	Clientset kubernetes.Interface
	// CA is the authority's certificate as PEM.
	CA  []byte
	Log *slog.Logger
}

// Start keeps the certificate there until ctx ends.
func (b *Bundle) Start(ctx context.Context) error {
	for {
		pause := bundleCheck
		if err := b.ensure(ctx); err != nil && ctx.Err() == nil {
			b.Log.Warn("pods are not admitted by Lifeboat yet", "error", err)
			pause = bundleRetry
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		}
	}
}

// NeedLeaderElection says that every watcher does this: any may be asked.
func (b *Bundle) NeedLeaderElection() bool { return false }

func (b *Bundle) ensure(ctx context.Context) error {
	configurations := b.Clientset.AdmissionregistrationV1().MutatingWebhookConfigurations()
	configuration, err := configurations.Get(ctx, ConfigurationName, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("read webhook configuration %s: %w", ConfigurationName, err)
	}
	type step struct {
		Op    string `json:"op"`
		Path  string `json:"path"`
		Value any    `json:"value"`
	}
	var steps []step
	for i, webhook := range configuration.Webhooks {
		if bytes.Equal(webhook.ClientConfig.CABundle, b.CA) {
			continue
		}
		// The test makes sure that the list is still the one that was read.
		steps = append(steps,
			step{"test", fmt.Sprintf("/webhooks/%d/name", i), webhook.Name},
			step{"add", fmt.Sprintf("/webhooks/%d/clientConfig/caBundle", i), b.CA})
	}
	if len(steps) == 0 {
		return nil
	}
	patch, err := json.Marshal(steps)
	if err != nil {
		return fmt.Errorf("write the webhook's certificate: %w", err)
	}
	if _, err := configurations.Patch(ctx, ConfigurationName, types.JSONPatchType, patch, metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("write the webhook's certificate into configuration %s: %w", ConfigurationName, err)
	}
	b.Log.Info("webhook's certificate written", "configuration", ConfigurationName)
	return nil
}
