package main

import (
	"context"
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// follow calls note with each event of a watch until ctx ends, and end when it cannot
// go on. The API server ends a watch whose reader falls behind on a busy machine; it is
// taken up where it was left.
func follow(ctx context.Context, api client.WithWatch, list client.ObjectList, note func(watch.Event), end func(error), options ...client.ListOption) error {
	first, err := api.Watch(ctx, list, options...)
	if err != nil {
		return fmt.Errorf("watch %T: %w", list, err)
	}
	go func() {
		version := ""
		for w := first; ; {
			for event := range w.ResultChan() {
				object, ok := event.Object.(client.Object)
				if !ok {
					end(fmt.Errorf("watch %T: %v", list, event.Object))
					w.Stop()
					return
				}
				version = object.GetResourceVersion()
				note(event)
			}
			w.Stop()
			if ctx.Err() != nil {
				return
			}
			if w, err = api.Watch(ctx, list, append(slices.Clone(options), from(version))...); err != nil {
				end(fmt.Errorf("take up the watch of %T: %w", list, err))
				return
			}
		}
	}()
	return nil
}

func from(version string) client.ListOption {
	return &client.ListOptions{Raw: &metav1.ListOptions{ResourceVersion: version}}
}
