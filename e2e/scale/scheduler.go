package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/common/expfmt"
	prometheus "github.com/prometheus/common/model"
	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	dto "github.com/prometheus/client_model/go"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/controlplane"
)

const (
	schedulerToken = "scheduler-token"
	// schedulerUser is bound to the stock role and to the shipped one.
	schedulerUser = "system:kube-scheduler"
	// leaseName is what the scheduler waits for before it places the first pod: as
	// long as somebody else has it, pods queue up.
	leaseName, leaseNamespace = "lifeboat-scale", "kube-system"
	// readyWithin is how long a scheduler may take to know all nodes and pods.
	readyWithin = time.Minute
)

// schedulerConfig is the shipped configuration, changed as a variant demands.
func schedulerConfig(v variant, kubeconfig string) ([]byte, error) {
	shipped, err := os.ReadFile(filepath.Join(module, "manifests/scheduler/config.yaml"))
	if err != nil {
		return nil, err
	}
	return changeConfig(shipped, v, kubeconfig)
}

func changeConfig(shipped []byte, v variant, kubeconfig string) ([]byte, error) {
	var config map[string]any
	if err := yaml.Unmarshal(shipped, &config); err != nil {
		return nil, fmt.Errorf("read the shipped configuration: %w", err)
	}
	// What is measured is the scheduler, not the limit that it sets itself.
	config["clientConnection"] = map[string]any{"kubeconfig": kubeconfig, "qps": 10000, "burst": 10000}
	config["leaderElection"] = map[string]any{
		"leaderElect": true, "resourceName": leaseName, "resourceNamespace": leaseNamespace,
		"leaseDuration": "60s", "renewDeadline": "30s", "retryPeriod": "200ms",
	}
	profiles, _ := config["profiles"].([]any)
	for _, each := range profiles {
		profile, _ := each.(map[string]any)
		if profile["schedulerName"] != v1alpha1.SchedulerName {
			continue
		}
		if !v.plugin {
			delete(profile, "plugins")
			delete(profile, "pluginConfig")
		}
		config["profiles"] = []any{profile}
		return yaml.Marshal(config)
	}
	return nil, fmt.Errorf("the shipped configuration has no profile %s", v1alpha1.SchedulerName)
}

// scheduler is a running scheduler.
type scheduler struct {
	*controlplane.Program
	url  string
	http http.Client
}

// holdLease keeps every scheduler from placing pods.
func (p *plane) holdLease(ctx context.Context) error {
	now := metav1.NowMicro()
	return p.Create(ctx, &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Name: leaseName, Namespace: leaseNamespace},
		Spec: coordinationv1.LeaseSpec{HolderIdentity: ptr.To("scale"), LeaseDurationSeconds: ptr.To[int32](3600),
			AcquireTime: &now, RenewTime: &now},
	})
}

// releaseLease lets the scheduler that waits begin, or the next one wait.
func (p *plane) releaseLease(ctx context.Context) error {
	return client.IgnoreNotFound(p.Delete(ctx, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: leaseName, Namespace: leaseNamespace}}))
}

// startScheduler starts the program with the configuration of a variant, and waits
// until it has seen all nodes.
func startScheduler(s *scope, p *plane, program string, v variant) (*scheduler, error) {
	content, err := schedulerConfig(v, p.Kubeconfig(schedulerToken))
	if err != nil {
		return nil, err
	}
	config := filepath.Join(s.TempDir(), "config.yaml")
	if err := os.WriteFile(config, content, 0o600); err != nil {
		return nil, err
	}
	port := controlplane.FreePort(s)
	started := &scheduler{url: "https://" + net.JoinHostPort("127.0.0.1", port)}
	started.http.Transport = &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} // it makes the certificate itself
	started.Program = controlplane.StartProgram(s, nil, program, "--config", config, "--bind-address", "127.0.0.1", "--secure-port", port,
		"--authorization-always-allow-paths", "/readyz,/metrics,/debug/pprof/*")
	return started, until(s.ctx, readyWithin, "the scheduler is ready", func(ctx context.Context) error {
		_, err := started.get(ctx, "/readyz")
		return err
	})
}

func (s *scheduler) get(ctx context.Context, path string) ([]byte, error) {
	return get(ctx, &s.http, s.url+path)
}

func get(ctx context.Context, caller *http.Client, url string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	response, err := caller.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", url, response.Status, body)
	}
	return body, err
}

// metrics are what the scheduler counts.
func (s *scheduler) metrics(ctx context.Context) (map[string]*dto.MetricFamily, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	response, err := s.http.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	parser := expfmt.NewTextParser(prometheus.UTF8Validation)
	return parser.TextToMetricFamilies(response.Body)
}

// queued is how many pods wait for a node.
func (s *scheduler) queued(ctx context.Context) (int, error) {
	metrics, err := s.metrics(ctx)
	if err != nil {
		return 0, err
	}
	pods := 0.0
	for _, m := range metrics["scheduler_pending_pods"].GetMetric() {
		pods += m.GetGauge().GetValue()
	}
	return int(pods), nil
}

// cycle is how long the scheduler took on average to choose a node, during which it
// places no other pod.
func (s *scheduler) cycle(ctx context.Context) (time.Duration, error) {
	const name = "scheduler_scheduling_algorithm_duration_seconds"
	metrics, err := s.metrics(ctx)
	if err != nil {
		return 0, err
	}
	for _, m := range metrics[name].GetMetric() {
		if n := m.GetHistogram().GetSampleCount(); n > 0 {
			return time.Duration(m.GetHistogram().GetSampleSum() / float64(n) * float64(time.Second)), nil
		}
	}
	return 0, fmt.Errorf("the scheduler reports no %s", name)
}
