package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/cart"
	"github.com/lifeboat-dev/lifeboat/e2e/deploy"
	"github.com/lifeboat-dev/lifeboat/e2e/loss"
)

const (
	// lookEvery is the time between two looks at everything but the fence records,
	// which are watched.
	lookEvery = time.Second
	// fencerPort is where a fencer tells its metrics.
	fencerPort = "7949"
)

// observer looks at a cluster under load and keeps the tally.
type observer struct {
	shop    *loss.Shop
	api     client.WithWatch
	logs    kubernetes.Interface
	shopper *corev1.Pod
	redis   *redisClient
	say     func(string)

	mu sync.Mutex
	*tally
	// acked is how many items were acknowledged before the load.
	acked int
	// metrics are the fencers' counters before the load, by pod and name.
	metrics map[string]map[string]float64
	// freezes are read from the fencers' logs.
	freezes *freezes
	// blind is how many looks have failed: the API and the pods are under load too.
	blind int
}

// run looks until ctx ends.
func (o *observer) run(ctx context.Context) {
	var watching sync.WaitGroup
	watching.Go(func() { o.watchFences(ctx, &watching) })
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for ctx.Err() == nil {
		o.look(ctx)
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
	}
	watching.Wait()
}

// watchFences sees every change of a fence record, also those that are soon taken back.
func (o *observer) watchFences(ctx context.Context, reports *sync.WaitGroup) {
	for ctx.Err() == nil {
		if err := o.watchOnce(ctx, reports); err != nil {
			o.missed(ctx)
			select {
			case <-ctx.Done():
			case <-time.After(lookEvery):
			}
		}
	}
}

// watchOnce watches until the API server ends the watch.
func (o *observer) watchOnce(ctx context.Context, reports *sync.WaitGroup) error {
	var fences v1alpha1.FenceList
	if err := o.api.List(ctx, &fences); err != nil {
		return err
	}
	for i := range fences.Items {
		o.fence(ctx, &fences.Items[i], reports)
	}
	changes, err := o.api.Watch(ctx, &v1alpha1.FenceList{}, &client.ListOptions{Raw: &metav1.ListOptions{ResourceVersion: fences.ResourceVersion}})
	if err != nil {
		return err
	}
	defer changes.Stop()
	for change := range changes.ResultChan() {
		fence, is := change.Object.(*v1alpha1.Fence)
		if !is || change.Type == watch.Deleted {
			continue
		}
		o.fence(ctx, fence, reports)
	}
	return nil
}

// fence counts a change, and has it reported when a node was declared lost.
func (o *observer) fence(ctx context.Context, fence *v1alpha1.Fence, reports *sync.WaitGroup) {
	o.mu.Lock()
	declared := o.tally.fence(fence.Name, fence.Spec)
	o.mu.Unlock()
	if declared {
		o.say(fmt.Sprintf("node %s was declared lost: %s", fence.Name, fence.Spec.Reason))
		reports.Go(func() { o.reportDeclaration(ctx, fence.Name, time.Now()) })
	}
}

// look looks once at pods, Migrations and clients.
func (o *observer) look(ctx context.Context) {
	var pods []corev1.Pod
	for _, in := range []string{namespace, v1alpha1.SystemNamespace} {
		var list corev1.PodList
		if err := o.api.List(ctx, &list, client.InNamespace(in)); err != nil {
			o.missed(ctx)
			return
		}
		pods = append(pods, list.Items...)
	}
	var migrations v1alpha1.MigrationList
	if err := o.api.List(ctx, &migrations); err != nil {
		o.missed(ctx)
		return
	}
	status, err := o.shop.At(o.shopper).Status(ctx)
	if err != nil {
		o.missed(ctx)
	}
	answers, standstill, redisErr := o.redis.seen()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.podsAre(pods)
	for i := range migrations.Items {
		o.migration(&migrations.Items[i])
	}
	if err == nil {
		o.shopperSaw(status)
	}
	o.answers[redisName] = answers
	o.stood(redisName, standstill)
	if redisErr != nil && len(o.changed) == 0 {
		o.changed = append(o.changed, "the connection to redis did not last: "+redisErr.Error())
	}
}

// shopperSaw notes what the shopper tells. o.mu is held.
func (o *observer) shopperSaw(status cart.Status) {
	o.answers[cartName] = status.Acked - o.acked
	o.stood(cartName, status.Standstill)
	if status.Down() {
		// Its standstill counts although it is not over.
		o.stood(cartName, time.Since(status.Last.AckedAt))
	}
}

// falseLoss notes that Kubernetes takes a node for lost.
func (o *observer) falseLoss(node string) {
	o.say("Kubernetes takes node " + node + " for lost")
	o.mu.Lock()
	defer o.mu.Unlock()
	o.notReady++
}

// missed notes a look that has failed, unless it was ended.
func (o *observer) missed(ctx context.Context) {
	if ctx.Err() != nil {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.blind++
}

// counters brings what the fencers have counted into the tally. The first call sets
// what is counted from.
func (o *observer) counters(ctx context.Context) error {
	var pods corev1.PodList
	if err := o.api.List(ctx, &pods, client.InNamespace(v1alpha1.SystemNamespace),
		client.MatchingLabels{"app.kubernetes.io/name": deploy.Checkpointer}); err != nil {
		return fmt.Errorf("list the checkpointers: %w", err)
	}
	now := map[string]map[string]float64{}
	for _, pod := range pods.Items {
		counted, err := scrape(ctx, deploy.HTTP(o.shop.Cluster), net.JoinHostPort(pod.Status.PodIP, fencerPort))
		if err != nil {
			return fmt.Errorf("read the metrics of the fencer on %s: %w", pod.Spec.NodeName, err)
		}
		now[pod.Name] = counted
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.metrics == nil {
		o.metrics = now
	}
	sum := func(metric string) (total float64) {
		for pod, counted := range now {
			total += counted[metric] - o.metrics[pod][metric]
		}
		return total
	}
	o.froze, o.kills = sum("lifeboat_fencer_freezes_total"), sum("lifeboat_fencer_kills_total")
	o.refutations = sum("lifeboat_fencer_refutations_total")
	return nil
}

// scrape returns the counters without labels that are served at an address.
func scrape(ctx context.Context, web *http.Client, address string) (map[string]float64, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/metrics", http.NoBody)
	if err != nil {
		return nil, err
	}
	resp, err := web.Do(request)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(resp.Body)
	if err != nil {
		return nil, err
	}
	counters := map[string]float64{}
	for name, family := range families {
		for _, metric := range family.GetMetric() {
			if metric.Counter != nil && len(metric.GetLabel()) == 0 {
				counters[name] = metric.Counter.GetValue()
			}
		}
	}
	return counters, nil
}

// reportDeclaration says what the watchers and the node's checkpointer logged of a
// declaration, as soon as it is decided.
func (o *observer) reportDeclaration(ctx context.Context, node string, at time.Time) {
	select {
	case <-ctx.Done():
		return
	case <-time.After(4 * time.Second):
	}
	var pods corev1.PodList
	if err := o.api.List(ctx, &pods, client.InNamespace(v1alpha1.SystemNamespace)); err != nil {
		o.missed(ctx)
		return
	}
	since := int64(time.Since(at).Seconds()) + 15
	for _, pod := range pods.Items {
		if !strings.HasPrefix(pod.Name, deploy.Watcher) && pod.Spec.NodeName != node {
			continue
		}
		for _, container := range pod.Spec.Containers {
			text, err := o.logs.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name,
				&corev1.PodLogOptions{Container: container.Name, SinceSeconds: &since}).DoRaw(ctx)
			if err != nil {
				text = []byte(err.Error())
			}
			for _, line := range interesting(string(text)) {
				o.say(fmt.Sprintf("  %s/%s on %s: %s", pod.Name, container.Name, pod.Spec.NodeName, line))
			}
		}
	}
}

// tellOf is how many lines of a log are told of each declaration.
const tellOf = 25

// interesting returns the last lines of a log that are about permissions.
func interesting(log string) (lines []string) {
	for line := range strings.Lines(log) {
		for _, word := range []string{"lost", "fence", "frozen", "thawed", "permission", "declar", "member", "silent", "WARN", "ERROR"} {
			if strings.Contains(line, word) && !strings.Contains(line, "Starting") {
				lines = append(lines, strings.TrimSpace(line))
				break
			}
		}
	}
	return lines[max(0, len(lines)-tellOf):]
}
