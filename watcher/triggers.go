package watcher

import (
	"context"
	"fmt"
	"log/slog"

	"sigs.k8s.io/controller-runtime/pkg/manager"
	ctrlmetrics "sigs.k8s.io/controller-runtime/pkg/metrics"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
	webhookadmission "sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/lifeboat-dev/lifeboat/watcher/admission"
	"github.com/lifeboat-dev/lifeboat/watcher/metrics"
	"github.com/lifeboat-dev/lifeboat/watcher/migrate"
	"github.com/lifeboat-dev/lifeboat/watcher/trigger"
)

// addTriggers adds to a manager what moves pods without being asked. Every watcher
// answers evictions; the one that leads looks at the nodes.
func addTriggers(mgr manager.Manager, config trigger.Config, driver *migrate.Driver, log *slog.Logger) error {
	counted := metrics.NewTriggers(ctrlmetrics.Registry)
	recorder := &trigger.Recorder{Client: mgr.GetClient(), Reader: mgr.GetAPIReader(), Metrics: counted}
	var evictions webhookadmission.Handler = webhookadmission.HandlerFunc(func(context.Context, webhookadmission.Request) webhookadmission.Response {
		return webhookadmission.Allowed("")
	})
	if config.Evictions {
		evictions = &admission.Evictions{Recorder: recorder, Events: driver.Events, Metrics: counted, Log: log}
	}
	mgr.GetWebhookServer().Register(admission.EvictionsPath, admission.OneReviewPerConnection(&webhook.Admission{Handler: evictions}))
	if err := mgr.Add(&trigger.Loop{Config: config, Cluster: driver, Recorder: recorder, Events: driver.Events, Log: log}); err != nil {
		return fmt.Errorf("add the triggers: %w", err)
	}
	return nil
}
