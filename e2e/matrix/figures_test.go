package matrix

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/deploy"
	"github.com/lifeboat-dev/lifeboat/e2e/observe"
)

// figures are what is measured of a program's checkpoints since its load began.
type figures struct {
	base, now counts
	begun     bool
	// progressed is when a generation was last added.
	progressed time.Time
	// reported has each generation that the Checkpoint told of, and its pause. It
	// tells of one in a few seconds.
	reported  map[int64]time.Duration
	size      int64
	condition string
	processes int
}

// counts are a namespace's counters of checkpoints.
type counts struct{ durable, failed, stored float64 }

func (c counts) minus(o counts) counts {
	return counts{c.durable - o.durable, c.failed - o.failed, c.stored - o.stored}
}

// pause returns the median and the longest of the pauses that were reported.
func (f *figures) pause() (median, longest time.Duration) {
	var sorted []time.Duration
	for _, pause := range f.reported {
		sorted = append(sorted, pause)
	}
	if len(sorted) == 0 {
		return 0, 0
	}
	slices.Sort(sorted)
	return sorted[len(sorted)/2], sorted[len(sorted)-1]
}

// checkpointer is the checkpointer's pod on a node.
func (l *lab) checkpointer(ctx context.Context, node string) (*corev1.Pod, error) {
	var pods corev1.PodList
	if err := l.api.List(ctx, &pods, client.InNamespace(v1alpha1.SystemNamespace), client.MatchingLabels{"app.kubernetes.io/name": deploy.Checkpointer}); err != nil {
		return nil, err
	}
	i := slices.IndexFunc(pods.Items, func(pod corev1.Pod) bool { return pod.Spec.NodeName == node && observe.Ready(&pod) })
	if i < 0 {
		return nil, fmt.Errorf("no checkpointer is ready on node %s", node)
	}
	return &pods.Items[i], nil
}

// failures are what the checkpointer has logged of a namespace's failed checkpoints.
func (l *lab) failures(node, namespace string) string {
	ctx, cancel := context.WithTimeout(l.ctx, checkLimit)
	defer cancel()
	pod, err := l.checkpointer(ctx, node)
	if err != nil {
		return err.Error()
	}
	var found []string
	for _, container := range pod.Spec.Containers {
		text, err := l.logs(ctx, pod, container.Name)
		if err != nil {
			return err.Error()
		}
		for line := range strings.Lines(text) {
			if strings.Contains(line, namespace) && strings.Contains(line, "checkpoint failed") {
				found = append(found, strings.TrimSpace(line))
			}
		}
	}
	return strings.Join(found, "\n")
}

// logs is what a container of a pod has written, as the kubelet serves it.
func (l *lab) logs(ctx context.Context, pod *corev1.Pod, container string) (string, error) {
	config, err := l.cluster.RESTConfig()
	if err != nil {
		return "", err
	}
	clientset, err := kubernetes.NewForConfig(config)
	if err != nil {
		return "", err
	}
	text, err := clientset.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name, &corev1.PodLogOptions{Container: container}).DoRaw(ctx)
	return string(text), err
}

// scrape reads the counters of the checkpointer on a node, by namespace.
func (l *lab) scrape(ctx context.Context, node string) (map[string]counts, error) {
	pod, err := l.checkpointer(ctx, node)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(pod.Status.PodIP, "7948")+"/metrics", http.NoBody)
	if err != nil {
		return nil, err
	}
	response, err := deploy.HTTP(l.cluster).Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(response.Body)
	if err != nil {
		return nil, fmt.Errorf("read the metrics of node %s: %w", node, err)
	}
	all := map[string]counts{}
	add := func(family string, change func(c *counts, value float64)) {
		for _, m := range families[family].GetMetric() {
			namespace := label(m, "namespace")
			c := all[namespace]
			change(&c, m.GetCounter().GetValue())
			all[namespace] = c
		}
	}
	add("lifeboat_checkpoints_total", func(c *counts, v float64) { c.durable += v })
	add("lifeboat_checkpoint_failures_total", func(c *counts, v float64) { c.failed += v })
	add("lifeboat_checkpoint_stored_bytes_total", func(c *counts, v float64) { c.stored += v })
	return all, nil
}

func label(m *dto.Metric, name string) string {
	for _, pair := range m.GetLabel() {
		if pair.GetName() == name {
			return pair.GetValue()
		}
	}
	return ""
}

// observe takes up what the node's counters and the pod's Checkpoint say. It
// returns whether there is nothing more to wait for.
func (s *subject) observe(c counts, checkpoint *v1alpha1.Checkpoint, generations int64) bool {
	f, now := &s.figures, time.Now()
	if !f.begun {
		*f = figures{base: c, now: c, begun: true, progressed: now, reported: map[int64]time.Duration{}}
	}
	if c.durable > f.now.durable {
		f.progressed = now
	}
	f.now = c
	reason := ""
	if checkpoint != nil && checkpoint.Spec.PodUID == s.pod.UID {
		status := checkpoint.Status
		f.reported[status.Generation] = time.Duration(status.PauseSeconds * float64(time.Second))
		f.size = status.Bytes
		if condition := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionProtected); condition != nil {
			reason = condition.Reason
			f.condition = fmt.Sprintf("Protected %s: %s: %s", condition.Status, condition.Reason, condition.Message)
		}
	}
	since := c.minus(f.base)
	switch {
	case since.durable >= float64(generations):
		return true
	case reason == v1alpha1.ReasonNotCheckpointable:
	case now.Sub(f.progressed) > stall:
	default:
		return false
	}
	s.err = fmt.Errorf("%.0f generations of %d are durable, and no more come: %s", since.durable, generations, f.condition)
	return true
}

// table has a line for each program.
func table(subjects []*subject, verdicts map[string]string) string {
	var text bytes.Buffer
	fmt.Fprintln(&text, "Pauses are those of the generations that Checkpoints told of; the other figures are of all.")
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "program\tprocesses\tgenerations\tfailed\tpause median\tmax\tsize\tnew per generation\tRTO\tRPO\tverdict\t")
	for _, s := range subjects {
		since := s.now.minus(s.base)
		median, longest := s.pause()
		rto, rpo := "-", "-"
		if s.migration != nil {
			rto, rpo = s.migration.Status.RTO, s.migration.Status.RPO
		}
		fmt.Fprintf(w, "%s\t%d\t%.0f\t%.0f\t%s\t%s\t%.1f MiB\t%.2f MiB\t%s\t%s\t%s\t\n", s.name, s.processes, since.durable, since.failed,
			median.Round(time.Millisecond), longest.Round(time.Millisecond), float64(s.size)/(1<<20),
			since.stored/max(1, since.durable)/(1<<20), rto, rpo, verdicts[s.name])
	}
	w.Flush()
	return strings.TrimRight(text.String(), "\n")
}
