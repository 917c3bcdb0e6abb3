package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

func TestChangeConfig(t *testing.T) {
	const shipped = `
kind: KubeSchedulerConfiguration
profiles:
  - schedulerName: default-scheduler
  - schedulerName: lifeboat-scheduler
    percentageOfNodesToScore: 50
    plugins: {multiPoint: {enabled: [{name: Lifeboat}]}}
    pluginConfig: [{name: Lifeboat, args: {}}]
`
	profile := map[string]any{
		"schedulerName": "lifeboat-scheduler", "percentageOfNodesToScore": 50.0,
		"plugins":      map[string]any{"multiPoint": map[string]any{"enabled": []any{map[string]any{"name": "Lifeboat"}}}},
		"pluginConfig": []any{map[string]any{"name": "Lifeboat", "args": map[string]any{}}},
	}
	for name, tc := range map[string]struct {
		variant variant
		without []string
	}{
		"without the plugin": {variant{}, []string{"plugins", "pluginConfig"}},
		"with it":            {variant{plugin: true}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			want := map[string]any{}
			for key, value := range profile {
				want[key] = value
			}
			for _, key := range tc.without {
				delete(want, key)
			}
			content, err := changeConfig([]byte(shipped), tc.variant, "/kubeconfig")
			if err != nil {
				t.Fatal(err)
			}
			var got map[string]any
			if err := yaml.Unmarshal(content, &got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]any{want}, got["profiles"]); diff != "" {
				t.Errorf("profiles (-want +got):\n%s", diff)
			}
			if connection, _ := got["clientConnection"].(map[string]any); connection["kubeconfig"] != "/kubeconfig" || connection["qps"] == nil {
				t.Errorf("clientConnection is %v", connection)
			}
		})
	}
	if content, err := changeConfig([]byte("profiles: []"), variant{}, ""); err == nil {
		t.Errorf("a configuration without the profile became %s", content)
	}
}

func TestAuditLog(t *testing.T) {
	const before = `{"stage":"ResponseComplete","verb":"get","objectRef":{"resource":"nodes"},"stageTimestamp":"2026-01-01T00:00:00Z"}` + "\n"
	const after = `{"stage":"ResponseStarted","verb":"watch","objectRef":{"resource":"pods"},"stageTimestamp":"2026-01-01T00:00:01Z"}
{"stage":"ResponseComplete","verb":"watch","objectRef":{"resource":"pods"},"stageTimestamp":"2026-01-01T00:00:02Z"}
{"stage":"ResponseComplete","verb":"patch","objectRef":{"resource":"migrations","subresource":"status"},"stageTimestamp":"2026-01-01T00:00:02Z"}
{"stage":"ResponseComplete","verb":"patch","objectRef":{"resource":"migrations","subresource":"status"},"stageTimestamp":"2026-01-01T00:00:03Z"}
{"stage":"ResponseComplete","verb":"get","requestURI":"/version?timeout=32s","stageTimestamp":"2026-01-01T00:00:04Z"}
{"stage":"ResponseCompl`
	log := auditLog(filepath.Join(t.TempDir(), "audit.log"))
	if position, err := log.position(); position != 0 || err != nil {
		t.Errorf("a log that is not there yet is at %d with error %v", position, err)
	}
	if err := os.WriteFile(string(log), []byte(before), 0o600); err != nil {
		t.Fatal(err)
	}
	position, err := log.position()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(string(log), []byte(before+after), 0o600); err != nil {
		t.Fatal(err)
	}
	requests, err := log.since(position)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]int{"watch pods": 1, "patch migrations/status": 2, "get /version": 1}
	if diff := cmp.Diff(want, counts(requests)); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
}

func TestRatioIsOfTheSameRound(t *testing.T) {
	a, b := variants[0], variants[1]
	at := size{1000, 2000}
	// The machine slows down: each round by itself has the same ratio.
	groups := grouped([]schedulerRun{
		{size: at, variant: a, perSecond: 400}, {size: at, variant: b, perSecond: 360},
		{size: at, variant: a, perSecond: 100}, {size: at, variant: b, perSecond: 90},
		{size: at, variant: a, perSecond: 10}, {size: at, variant: b, perSecond: 9},
	})
	if len(groups) != 2 {
		t.Fatalf("%d groups, want 2", len(groups))
	}
	if ratio, ok := groups[1].ratio(groups); !ok || ratio != 0.9 {
		t.Errorf("ratio %v, %v; want 0.9", ratio, ok)
	}
	if _, ok := groups[0].ratio(groups); ok {
		t.Error("the first variant has a ratio to itself")
	}
}

func TestQuantile(t *testing.T) {
	values := []int{5, 1, 4, 2, 3}
	for share, want := range map[float64]int{0: 1, 0.2: 1, 0.5: 3, 0.8: 4, 0.99: 5, 1: 5} {
		if got := quantile(values, share); got != want {
			t.Errorf("quantile %v of %v is %d, want %d", share, values, got, want)
		}
	}
	if got := median([]int(nil)); got != 0 {
		t.Errorf("the median of nothing is %d", got)
	}
}
