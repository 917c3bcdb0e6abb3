package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/cart/workload"
	"github.com/lifeboat-dev/lifeboat/e2e/marked"
	"github.com/lifeboat-dev/lifeboat/e2e/observe"
	"github.com/lifeboat-dev/lifeboat/e2e/stock"
)

// soak keeps everything busy, looks, and judges.
func (s *soaking) soak(ctx context.Context, o options) error {
	begin := time.Now()
	loaded, end := context.WithTimeout(ctx, o.length)
	defer end()
	redisEnded, observed, stressed := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	looking, stopLooking := context.WithCancel(context.WithoutCancel(ctx))
	defer stopLooking()
	go func() { defer close(redisEnded); s.observer.redis.run(loaded) }()
	go func() { defer close(observed); s.observer.run(looking) }()
	go func() { stressed <- s.stress.run(loaded) }()
	o.cluster.Progress(fmt.Sprintf("the load begins; it lasts %s", o.length))
	byKubernetes := stock.WatchFalseLosses(looking, s.stress.cluster, s.observer.api, s.observer.falseLoss)
	lines := newSummary(begin)
	lines.generations(loaded, s.observer)
	ticker := time.NewTicker(o.every)
	defer ticker.Stop()
	for loaded.Err() == nil {
		select {
		case <-loaded.Done():
		case <-ticker.C:
			fmt.Println(lines.line(loaded, s.observer))
		}
	}
	stressErr := <-stressed
	<-redisEnded
	took := time.Since(begin)
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeLimit)
	defer cancel()
	closeErr := s.close(closing, lines)
	stopLooking()
	<-observed
	byKubernetes.End()
	text, verdict := s.observer.outcome(lines, took, o.frozen)
	fmt.Print(text)
	if ctx.Err() != nil {
		return errors.Join(errInterrupted, verdict)
	}
	if err := errors.Join(verdict, stressErr, closeErr); err != nil || o.write == "" {
		return err
	}
	return marked.Write(o.write, "soak", "```\n"+text+"```")
}

// close looks a last time, with the load gone, and whether the processes are those of
// the beginning and have all that was acknowledged.
func (s *soaking) close(ctx context.Context, lines *summary) error {
	// What was declared at the very end is decided by then.
	unsettled := s.settle(ctx)
	s.observer.look(ctx)
	lines.generations(ctx, s.observer)
	return errors.Join(unsettled, s.observer.counters(ctx), s.observer.readFreezes(ctx), s.compare(ctx))
}

// settle waits until no node is declared lost, and no recovery is open.
func (s *soaking) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, closeLimit/2)
	defer cancel()
	return observe.Until(ctx, "no node is declared lost, and no recovery open", func(ctx context.Context) (bool, string, error) {
		var fences v1alpha1.FenceList
		var migrations v1alpha1.MigrationList
		err := errors.Join(s.observer.api.List(ctx, &fences), s.observer.api.List(ctx, &migrations))
		for _, fence := range fences.Items {
			if fence.Spec.State != v1alpha1.FenceRunning {
				return false, fmt.Sprintf("node %s is %s", fence.Name, fence.Spec.State), err
			}
		}
		for i := range migrations.Items {
			if m := &migrations.Items[i]; m.Open() {
				return false, fmt.Sprintf("Migration %s is in phase %s", m.Name, m.Status.Phase), err
			}
		}
		return true, "", err
	})
}

// compare looks whether the processes are those of the beginning, and miss nothing.
func (s *soaking) compare(ctx context.Context) error {
	o := s.observer
	pod, err := observe.ReadyPod(ctx, o.api, namespace, workload.Labels)
	if err != nil {
		return err
	}
	report, err := o.shop.At(o.shopper).Report(ctx)
	if err != nil {
		return fmt.Errorf("read the shopper's report: %w", err)
	}
	snapshot, err := o.shop.At(pod).Snapshot(ctx)
	if err != nil {
		return fmt.Errorf("read the cart: %w", err)
	}
	id, err := s.runID(ctx)
	if err != nil {
		return err
	}
	missing := 0
	for _, write := range report.Writes {
		if !snapshot.Has(report.Cart, write.SKU) {
			missing++
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if snapshot.Birth != s.cart {
		o.changed = append(o.changed, fmt.Sprintf("the cart was born as %s and now is %s", s.cart, snapshot.Birth))
	}
	if id != s.redis {
		o.changed = append(o.changed, fmt.Sprintf("redis ran as %s and now as %s", s.redis, id))
	}
	if missing > 0 {
		o.changed = append(o.changed, fmt.Sprintf("the cart misses %d of %d acknowledged items", missing, len(report.Writes)))
	}
	return nil
}
