package plugin

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kube-scheduler/framework"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

func TestPredict(t *testing.T) {
	model := Model{
		LocalBytesPerSecond: 1000, RemoteBytesPerSecond: 250, Start: 2 * time.Second, RemoteStart: time.Second,
		ImagePull: 10 * time.Second, Failure: 8 * time.Second, FailureHalfLife: 10 * time.Minute,
		Pressure: 3 * time.Second, SameDomain: 500 * time.Millisecond,
	}
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	failed := func(ages ...time.Duration) *v1alpha1.RestoreHistory {
		h := &v1alpha1.RestoreHistory{}
		for _, age := range ages {
			h.Failures = append(h.Failures, v1alpha1.RestoreFailure{At: metav1.NewTime(now.Add(-age))})
		}
		return h
	}
	shown := &v1alpha1.RestoreHistory{LocalBytesPerSecond: 4000, RemoteBytesPerSecond: 500}
	for name, tc := range map[string]struct {
		bytes int64
		site  Site
		want  time.Duration
	}{
		"holder":                       {4000, Site{Holder: true}, 6 * time.Second},
		"another node":                 {4000, Site{}, 19 * time.Second},
		"nothing to fill in":           {0, Site{}, 3 * time.Second},
		"holder, shown rate":           {4000, Site{Holder: true, Restores: shown}, 3 * time.Second},
		"another node, shown rate":     {4000, Site{Restores: shown}, 11 * time.Second},
		"processor short":              {4000, Site{Holder: true, Load: &v1alpha1.NodeLoad{CPUPressure: 50}}, 10 * time.Second},
		"the holder's disk busy":       {4000, Site{Holder: true, Load: &v1alpha1.NodeLoad{IOPressure: 75}}, 18 * time.Second},
		"another node's disk busy":     {4000, Site{Load: &v1alpha1.NodeLoad{IOPressure: 75}}, 19 * time.Second},
		"at a standstill":              {4000, Site{Holder: true, Load: &v1alpha1.NodeLoad{MemoryPressure: 100}}, 42 * time.Second},
		"two images to pull":           {0, Site{Holder: true, MissingImages: 2}, 22 * time.Second},
		"two pressure conditions":      {0, Site{Holder: true, Pressures: 2}, 8 * time.Second},
		"failed just now":              {0, Site{Holder: true, Restores: failed(0)}, 10 * time.Second},
		"failed by a clock ahead":      {0, Site{Holder: true, Restores: failed(-time.Minute)}, 10 * time.Second},
		"failed one and two lives ago": {0, Site{Holder: true, Restores: failed(10*time.Minute, 20*time.Minute)}, 8 * time.Second},
		"in the domain of the loss":    {0, Site{Holder: true, SameDomain: true}, 2500 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			if got := model.Predict(tc.bytes, &tc.site, now); got.Round(time.Millisecond) != tc.want {
				t.Errorf("Predict = %s, want %s", got, tc.want)
			}
		})
	}
	if got := model.Predict(1<<62, &Site{}, now); got != longest {
		t.Errorf("the longest prediction is %s, want %s", got, longest)
	}
}

// What is known of a node must reach the prediction: with the defaults, in each
// pair the first node is better.
func TestScore(t *testing.T) {
	checkpoint := &v1alpha1.HeldCheckpoint{Generation: 7, Bytes: 256 << 20, Holders: []string{"holder"}}
	domain := func(zone string) func(*nodeInfo) {
		return func(n *nodeInfo) { n.node.Labels[corev1.LabelTopologyZone] = zone }
	}
	image := func(n *nodeInfo) {
		n.images = map[string]*framework.ImageStateSummary{"docker.io/shop/web:latest": {}}
	}
	manyImages := func(n *nodeInfo) { n.node.Status.Images = make([]corev1.ContainerImage, mostImages) }
	condition := func(status corev1.ConditionStatus, kind corev1.NodeConditionType) func(*nodeInfo) {
		return func(n *nodeInfo) {
			n.node.Status.Conditions = append(n.node.Status.Conditions, corev1.NodeCondition{Type: kind, Status: status})
		}
	}
	load := func(l v1alpha1.NodeLoad) func(*v1alpha1.Fence) {
		return func(f *v1alpha1.Fence) { f.Status.Load = &l }
	}
	history := func(h v1alpha1.RestoreHistory) func(*v1alpha1.Fence) {
		return func(f *v1alpha1.Fence) { f.Status.Restores = &h }
	}
	type candidate struct {
		name  string
		node  []func(*nodeInfo)
		fence []func(*v1alpha1.Fence)
	}
	node := func(name string, change ...func(*nodeInfo)) candidate { return candidate{name: name, node: change} }
	with := func(name string, change ...func(*v1alpha1.Fence)) candidate {
		return candidate{name: name, fence: change}
	}
	for name, tc := range map[string]struct {
		better, worse candidate
		equal         bool
	}{
		"the holder": {better: node("holder"), worse: node("other")},
		"an image to pull outweighs a copy at hand": {better: node("other", image), worse: node("holder", condition(corev1.ConditionTrue, corev1.NodeDiskPressure))},
		"a pressure that is over":                   {better: node("other"), worse: node("third", condition(corev1.ConditionFalse, corev1.NodeDiskPressure)), equal: true},
		"ready is no pressure":                      {better: node("other"), worse: node("third", condition(corev1.ConditionTrue, corev1.NodeReady)), equal: true},
		"another zone":                              {better: node("other", domain("b")), worse: node("third", domain("a"))},
		"an unknown zone":                           {better: node("other"), worse: node("third", domain("b")), equal: true},
		"the image is there":                        {better: node("other", image), worse: node("third")},
		"more images than are reported":             {better: node("other", image), worse: node("third", manyImages), equal: true},
		"busy":                                      {better: with("other"), worse: with("third", load(v1alpha1.NodeLoad{CPUPressure: 60}))},
		"failed lately":                             {better: with("other"), worse: with("third", history(v1alpha1.RestoreHistory{Failures: []v1alpha1.RestoreFailure{{At: metav1.Now()}}}))},
		"a fast network":                            {better: with("other", history(v1alpha1.RestoreHistory{RemoteBytesPerSecond: 2e9})), worse: with("third")},
	} {
		t.Run(name, func(t *testing.T) {
			p, s := against(t, unreachable(t))
			s.nodes["node-a"] = nodeNamed("node-a", domain("a"))
			pod := successor("web-2", "ReplicaSet", "rs")
			pod.Spec.Containers = []corev1.Container{{Image: "shop/web"}}
			s.addPod(t, pod)
			p.records.putFence("node-a", fence("node-a", "1", v1alpha1.FenceFenced))
			p.migrationChanged(nil, lost("m", "web-1", "ReplicaSet", "rs", func(m *v1alpha1.Migration) {
				m.Status = v1alpha1.MigrationStatus{Phase: v1alpha1.PhaseDeleted, Checkpoint: checkpoint}
			}))
			var nodes []framework.NodeInfo
			for _, c := range []candidate{tc.better, tc.worse} {
				p.records.putFence(c.name, fence(c.name, "1", v1alpha1.FenceRunning, c.fence...))
				nodes = append(nodes, nodeNamed(c.name, c.node...))
			}
			state := newCycle()
			if _, status := p.PreFilter(t.Context(), state, pod, nodes); !status.IsSuccess() {
				t.Fatal(status.Message())
			}
			var scores framework.NodeScoreList
			for i, c := range []candidate{tc.better, tc.worse} {
				score, status := p.Score(t.Context(), state, pod, nodes[i])
				if !status.IsSuccess() {
					t.Fatal(status.Message())
				}
				scores = append(scores, framework.NodeScore{Name: c.name, Score: score})
			}
			p.NormalizeScore(t.Context(), state, pod, scores)
			clearly := scores[1].Score <= 86 // more than the other plugins can outweigh
			if scores[0].Score != framework.MaxNodeScore || tc.equal != (scores[0].Score == scores[1].Score) || !tc.equal && !clearly {
				t.Errorf("%s scores %d, %s scores %d", tc.better.name, scores[0].Score, tc.worse.name, scores[1].Score)
			}
		})
	}
}

func TestNormalize(t *testing.T) {
	scores := framework.NodeScoreList{{Score: 2_000_000}, {Score: 1_000_000}, {Score: 1_200_000}, {Score: 86_400_000_000}, {Score: 1_000_000}}
	normalize(scores)
	for i, want := range []int64{50, 100, 83, 0, 100} {
		if scores[i].Score != want {
			t.Errorf("score %d is %d, want %d", i, scores[i].Score, want)
		}
	}
	normalize(nil)
}

func TestSentence(t *testing.T) {
	times := framework.NodeScoreList{
		{Name: "node-f", Score: 31_499_999}, {Name: "node-e", Score: 2_000_000}, {Name: "node-d", Score: 1_940_000},
		{Name: "node-c", Score: 2_000_000}, {Name: "node-b", Score: 812_000},
	}
	for name, tc := range map[string]struct {
		times  framework.NodeScoreList
		nodes  int
		chosen string
		want   string
	}{
		"alone":                {times[4:], 1, "node-b", " in about 800ms"},
		"the only able":        {times[4:], 3, "node-b", " in about 800ms; 2 of 3 nodes could not take it"},
		"the fastest":          {times, 5, "node-b", " in about 800ms; node node-d would take 1.9s, node node-c would take 2s, node node-e would take 2s, 1 more no less"},
		"another":              {times[3:], 4, "node-c", " in about 2s; node node-b would take 800ms; 2 of 4 nodes could not take it"},
		"far from the fastest": {times, 5, "node-f", "; node node-b would take 800ms, node node-d would take 1.9s, node node-c would take 2s, 1 more no less"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := predicted(tc.times, tc.nodes).sentence(tc.chosen); got != tc.want {
				t.Errorf("sentence = %q\n    want %q", got, tc.want)
			}
		})
	}
}
