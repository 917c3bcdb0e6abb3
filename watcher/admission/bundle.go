package admission

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// ConfigurationName is the name of the MutatingWebhookConfiguration, and of the
// ValidatingWebhookConfiguration.
const ConfigurationName = "lifeboat"

const (
	bundleRetry = 2 * time.Second
	bundleCheck = 30 * time.Second
)

// Bundle keeps the authority's certificate in the webhooks' configurations, so
// that the API server trusts the webhooks: whoever applies the manifest again
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
		if err := errors.Join(b.ensure(ctx, b.pods()), b.ensure(ctx, b.evictions())); err != nil && ctx.Err() == nil {
			b.Log.Warn("the API server does not ask Lifeboat about pods, or about evictions, yet", "error", err)
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

// configuration is one object that tells the API server of webhooks.
type configuration struct {
	kind  string
	read  func(ctx context.Context) ([]trusted, error)
	patch func(ctx context.Context, patch []byte) error
}

// trusted is a webhook by its name, and the certificate by which it is known.
type trusted struct {
	name string
	ca   []byte
}

func (b *Bundle) pods() configuration {
	client := b.Clientset.AdmissionregistrationV1().MutatingWebhookConfigurations()
	return configuration{
		kind: "MutatingWebhookConfiguration",
		read: func(ctx context.Context) (webhooks []trusted, err error) {
			c, err := client.Get(ctx, ConfigurationName, metav1.GetOptions{})
			if err != nil {
				return nil, err
			}
			for _, w := range c.Webhooks {
				webhooks = append(webhooks, trusted{w.Name, w.ClientConfig.CABundle})
			}
			return webhooks, nil
		},
		patch: func(ctx context.Context, patch []byte) error {
			_, err := client.Patch(ctx, ConfigurationName, types.JSONPatchType, patch, metav1.PatchOptions{})
			return err
		},
	}
}

func (b *Bundle) evictions() configuration {
	client := b.Clientset.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	return configuration{
		kind: "ValidatingWebhookConfiguration",
		read: func(ctx context.Context) (webhooks []trusted, err error) {
			c, err := client.Get(ctx, ConfigurationName, metav1.GetOptions{})
			if err != nil {
				return nil, err
			}
			for _, w := range c.Webhooks {
				webhooks = append(webhooks, trusted{w.Name, w.ClientConfig.CABundle})
			}
			return webhooks, nil
		},
		patch: func(ctx context.Context, patch []byte) error {
			_, err := client.Patch(ctx, ConfigurationName, types.JSONPatchType, patch, metav1.PatchOptions{})
			return err
		},
	}
}

func (b *Bundle) ensure(ctx context.Context, c configuration) error {
	webhooks, err := c.read(ctx)
	if err != nil {
		return fmt.Errorf("read %s %s: %w", c.kind, ConfigurationName, err)
	}
	type step struct {
		Op    string `json:"op"`
		Path  string `json:"path"`
		Value any    `json:"value"`
	}
	var steps []step
	for i, webhook := range webhooks {
		if bytes.Equal(webhook.ca, b.CA) {
			continue
		}
		// The test makes sure that the list is still the one that was read.
		steps = append(steps,
			step{"test", fmt.Sprintf("/webhooks/%d/name", i), webhook.name},
			step{"add", fmt.Sprintf("/webhooks/%d/clientConfig/caBundle", i), b.CA})
	}
	if len(steps) == 0 {
		return nil
	}
	patch, err := json.Marshal(steps)
	if err != nil {
		return fmt.Errorf("write the webhooks' certificate: %w", err)
	}
	if err := c.patch(ctx, patch); err != nil {
		return fmt.Errorf("write the webhooks' certificate into %s %s: %w", c.kind, ConfigurationName, err)
	}
	b.Log.Info("webhooks' certificate written", "configuration", c.kind)
	return nil
}
