package scenarios

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/deploy"
	"github.com/lifeboat-dev/lifeboat/e2e/loss"
	"github.com/lifeboat-dev/lifeboat/e2e/observe"
)

// Metrics that one operator's question each depends on.
var (
	checkpointMetrics = []string{
		"lifeboat_checkpoint_pause_seconds", // how long pods stand still
		"lifeboat_checkpoint_size_bytes",    // how much state there is
		"lifeboat_checkpoint_age_seconds",   // what a loss would cost now
	}
	recoveryMetrics = []string{"lifeboat_recovery_rto_seconds", "lifeboat_recovery_rpo_seconds"}
)

// checkRecoveryMetrics checks that after a recovery the checkpointer beside the
// cart tells of its checkpoints, and a watcher of the recovery.
func checkRecoveryMetrics(t *testing.T, namespace string, record *loss.Record) {
	for _, component := range []struct {
		name, port, node, namespace string
		metrics                     []string
	}{
		{deploy.Checkpointer, "7948", record.Target, namespace, checkpointMetrics},
		{deploy.Watcher, "8080", "", "", recoveryMetrics}, // they are of the whole cluster
	} {
		for _, name := range component.metrics {
			err := observe.Until(deadline(t), fmt.Sprintf("a %s exposes %s", component.name, name), func(ctx context.Context) (bool, string, error) {
				return exposes(ctx, component.name, component.port, component.node, name, component.namespace)
			})
			if err != nil {
				t.Error(err)
			}
		}
	}
}

// exposes says whether a pod of a component, on the node if one is given, exposes a
// metric with a value above zero, for what is in the namespace if one is given.
func exposes(ctx context.Context, component, port, node, metric, namespace string) (bool, string, error) {
	var pods corev1.PodList
	if err := api.List(ctx, &pods, client.InNamespace(v1alpha1.SystemNamespace), client.MatchingLabels{"app.kubernetes.io/name": component}); err != nil {
		return false, "", err
	}
	seen := "no pod"
	for _, pod := range pods.Items {
		if !observe.Ready(&pod) || node != "" && pod.Spec.NodeName != node {
			continue
		}
		families, err := scrape(net.JoinHostPort(pod.Status.PodIP, port))
		if err != nil {
			// A pod that went with the lost node can still be listed as ready.
			seen = err.Error()
			continue
		}
		family := families[metric]
		for _, m := range family.GetMetric() {
			if value(m) > 0 && label(m, "namespace") == namespace {
				return true, "", nil
			}
		}
		seen = fmt.Sprintf("%s: %v", pod.Name, family)
	}
	return false, seen, nil
}

func scrape(address string) (map[string]*dto.MetricFamily, error) {
	resp, err := deploy.HTTP(lab).Get("http://" + address + "/metrics")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("metrics of %s: %s", address, resp.Status)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	return parser.TextToMetricFamilies(resp.Body)
}

// value is a gauge's or counter's value, or how often a histogram was observed.
func value(m *dto.Metric) float64 {
	switch {
	case m.Gauge != nil:
		return m.Gauge.GetValue()
	case m.Counter != nil:
		return m.Counter.GetValue()
	case m.Histogram != nil:
		return float64(m.Histogram.GetSampleCount())
	}
	return m.GetSummary().GetSampleSum()
}

func label(m *dto.Metric, name string) string {
	for _, pair := range m.GetLabel() {
		if pair.GetName() == name {
			return pair.GetValue()
		}
	}
	return ""
}
