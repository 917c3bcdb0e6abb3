package main

import (
	"context"
	"slices"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/e2e/cart/workload"
	"github.com/lifeboat-dev/lifeboat/e2e/loss"
)

// routed is the moment at which the Service's endpoints are those of the successor.
// What comes after it is kube-proxy's share, and the network's.
const routed = "the Service's endpoint is the successor"

// moments are all moments in their order.
var moments = slices.Insert(slices.Clone(loss.Moments), slices.Index(loss.Moments, loss.FirstReply), routed)

// routedEvery is how often the endpoints are looked at.
const routedEvery = 20 * time.Millisecond

// watchRoute waits until the cart's Service has a ready endpoint on another node, and
// sends that moment; nothing when ctx ends before. It is meant to begin when the lost
// pod's node has lost its power.
func watchRoute(ctx context.Context, shop *loss.Shop, lostNode string) <-chan time.Time {
	at := make(chan time.Time, 1)
	service := client.MatchingLabels{discoveryv1.LabelServiceName: workload.Service(shop.Namespace).Name}
	go func() {
		ticker := time.NewTicker(routedEvery)
		defer ticker.Stop()
		for {
			var slicesOf discoveryv1.EndpointSliceList
			err := shop.Client.List(ctx, &slicesOf, client.InNamespace(shop.Namespace), service)
			if err == nil && slices.ContainsFunc(slicesOf.Items, func(s discoveryv1.EndpointSlice) bool { return leadsAway(s, lostNode) }) {
				at <- time.Now()
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
		}
	}()
	return at
}

// leadsAway says whether a slice has a ready endpoint on another node.
func leadsAway(s discoveryv1.EndpointSlice, lostNode string) bool {
	return slices.ContainsFunc(s.Endpoints, func(e discoveryv1.Endpoint) bool {
		return e.Conditions.Ready != nil && *e.Conditions.Ready && e.NodeName != nil && *e.NodeName != lostNode
	})
}

// addRoute puts the moment into the record, in its place.
func addRoute(r *loss.Record, at <-chan time.Time) {
	select {
	case moment := <-at:
		i := slices.IndexFunc(r.Moments, func(m loss.Moment) bool { return m.Name == loss.FirstReply })
		if i < 0 {
			i = len(r.Moments)
		}
		r.Moments = slices.Insert(r.Moments, i, loss.Moment{Name: routed, At: moment})
	default:
	}
}
