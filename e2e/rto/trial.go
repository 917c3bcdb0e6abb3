package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/lifeboat-dev/lifeboat/e2e/cart/workload"
	"github.com/lifeboat-dev/lifeboat/e2e/deploy"
	"github.com/lifeboat-dev/lifeboat/e2e/loss"
	"github.com/lifeboat-dev/lifeboat/e2e/observe"
)

// trial is what one cut of the power did to both carts.
type trial struct {
	*loss.Record
	// stock is nil where there was no cart without protection.
	stock *stockRecord
}

// lab is where the losses happen.
type lab struct {
	shop  *loss.Shop
	stock *stockShop // nil for none
	// generations of the shopper's items are durable before each loss.
	generations int64
	progress    func(step string)
}

// lose makes the cluster whole, sends shoppers, takes the carts' node, and gives it
// back when the cart without protection was watched for long enough.
func (l *lab) lose(ctx context.Context, wait time.Duration) (_ *trial, err error) {
	step, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	if err := deploy.Whole(step, l.shop.Cluster, l.shop.Client, func(string) {}); err != nil {
		return nil, err
	}
	var watch *stockWatch
	if l.stock != nil {
		pod, err := observe.ReadyPod(step, l.shop.Client, l.shop.Namespace, workload.Labels)
		if err != nil {
			return nil, err
		}
		if watch, err = l.stock.prepare(step, pod.Spec.NodeName); err != nil {
			return nil, err
		}
	}
	// Longer than anything that is waited for below.
	watching, stop := context.WithTimeout(ctx, loss.Patience+wait+stepLimit)
	defer stop()
	var route <-chan time.Time
	l.shop.AfterCut = func(_ context.Context, lost *corev1.Pod) error {
		route = watchRoute(watching, l.shop, lost.Spec.NodeName)
		if watch != nil {
			watch.begin(watching, time.Now())
		}
		return nil
	}
	if err := l.shop.StartShopper(step, l.generations); err != nil {
		return nil, err
	}
	record, err := l.shop.Lose(ctx, nil)
	if err != nil {
		return nil, err
	}
	addRoute(record, route)
	if watch != nil && wait > 0 {
		if err := watch.linger(ctx, wait); err != nil {
			return nil, err
		}
	}
	after, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	if err := l.shop.StopShopper(after); err != nil {
		return nil, err
	}
	t := &trial{Record: record}
	powerOn := time.Now()
	if err := l.shop.Cluster.PowerOn(after, record.Source); err != nil {
		return nil, err
	}
	if watch == nil {
		return t, nil
	}
	if err := watch.back(after); errors.Is(err, errDisturbed) {
		l.progress(err.Error() + ": this loss does not count for it")
		return t, l.stock.StopShopper(after)
	} else if err != nil {
		return nil, err
	}
	watch.record.powerOn = powerOn
	t.stock, err = watch.conclude(after)
	return t, err
}

// linger waits for a time, or until the cart is back.
func (w *stockWatch) linger(ctx context.Context, wait time.Duration) error {
	select {
	case err := <-w.done:
		w.done <- err // for back, which says so
		return nil
	case <-time.After(wait):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// back waits until the cart is back.
func (w *stockWatch) back(ctx context.Context) error {
	select {
	case err := <-w.done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("the cart without protection is not back: %w", errors.Join(ctx.Err(), context.Cause(ctx)))
	}
}
