package migrate

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
	ctrlcache "sigs.k8s.io/controller-runtime/pkg/cache"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// tellPausedEvery is how often it is told again that recoveries are paused: it must
// not be forgotten.
const tellPausedEvery = 10 * time.Minute

// pause is whether an operator has paused recoveries. Every watcher knows it.
type pause struct {
	namespace string
	// changed receives after the pause has changed.
	changed chan struct{}
	synced  cache.InformerSynced

	mu     sync.Mutex
	paused string
	wrong  error
}

func newPause(namespace string) *pause {
	return &pause{namespace: namespace, changed: make(chan struct{}, 1)}
}

// watch hears of the pause from now on.
func (p *pause) watch(ctx context.Context, informers ctrlcache.Informers) error {
	informer, err := informers.GetInformer(ctx, &corev1.ConfigMap{}, ctrlcache.BlockUntilSynced(false))
	if err != nil {
		return fmt.Errorf("watch the ConfigMap %s: %w", v1alpha1.ConfigName, err)
	}
	handler, err := informer.AddEventHandler(on(p.take))
	if err != nil {
		return fmt.Errorf("watch the ConfigMap %s: %w", v1alpha1.ConfigName, err)
	}
	p.synced = handler.HasSynced
	return nil
}

// wait waits until it is known whether recoveries are paused.
func (p *pause) wait(ctx context.Context) { cache.WaitForCacheSync(ctx.Done(), p.synced) }

func (p *pause) take(config *corev1.ConfigMap, exists bool) {
	if config.Namespace != p.namespace || config.Name != v1alpha1.ConfigName {
		return
	}
	var (
		reason string
		err    error
	)
	if exists {
		reason, err = v1alpha1.ParseRecoveries(config.Data[v1alpha1.ConfigRecoveries])
	}
	p.mu.Lock()
	p.paused, p.wrong = reason, err
	p.mu.Unlock()
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

// reason is why recoveries are paused, empty while they are not.
func (p *pause) reason() string {
	reason, _ := p.now()
	return reason
}

// now is why recoveries are paused, and what is wrong with the operator's wish.
func (p *pause) now() (reason string, wrong error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.paused, p.wrong
}

// tellPaused tells, as long as it leads, when recoveries are paused and resumed, and
// again and again while they are.
func (d *Driver) tellPaused(ctx context.Context) error {
	again := time.NewTicker(tellPausedEvery)
	defer again.Stop()
	var before string
	var wrongBefore error
	repeat := false
	for {
		reason, wrong := d.pause.now()
		switch {
		case reason != "" && (repeat || reason != before):
			d.Log.Warn("recoveries are paused", "reason", reason)
			d.configEvent(corev1.EventTypeWarning, "RecoveriesPaused",
				fmt.Sprintf("No node is declared lost, and no pod recovered: %s. To go on: kubectl lifeboat resume", reason))
		case reason == "" && before != "":
			d.Log.Info("recoveries are not paused any more")
			d.configEvent(corev1.EventTypeNormal, "RecoveriesResumed", "Lost nodes are recovered from again.")
		}
		if wrong != nil && (wrongBefore == nil || repeat || wrong.Error() != wrongBefore.Error()) {
			d.Log.Warn("the operator's wish cannot be read, and nothing is paused", "error", wrong)
			d.configEvent(corev1.EventTypeWarning, "NotPaused", "Recoveries are not paused: "+wrong.Error())
		}
		before, wrongBefore = reason, wrong
		select {
		case <-ctx.Done():
			return nil
		case <-d.pause.changed:
			repeat = false
		case <-again.C:
			repeat = true
		}
	}
}

// configEvent records an event on the ConfigMap by which operators steer Lifeboat.
func (d *Driver) configEvent(kind, reason, note string) {
	config := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: d.Namespace, Name: v1alpha1.ConfigName}}
	d.Events.Eventf(config, nil, kind, reason, "Pause", "%s", note)
}
