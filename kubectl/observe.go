package kubectl

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// retryEvery is how long to wait before the API is asked again after an error.
const retryEvery = time.Second

// change is one thing that was seen of the objects of a list.
type change struct {
	// kind is Added, Modified or Deleted of an object; Bookmark when all objects of
	// the first list were given; Error, when err says why nothing can be seen.
	kind   watch.EventType
	object client.Object
	err    error
	// lasting is whether nothing will follow after an error.
	lasting bool
}

// observe gives all objects of a list, and then each change, until the context ends. A
// watch that breaks off is begun anew. An error of the first list lasts, and so does
// it where the caller may not watch.
func (c *cluster) observe(ctx context.Context, list client.ObjectList, options ...client.ListOption) <-chan change {
	changes := make(chan change)
	o := &observer{cluster: c, list: list, options: options, changes: changes, known: map[types.NamespacedName]client.Object{}}
	go func() {
		defer close(changes)
		said := false // of one outage there is one error
		for ctx.Err() == nil {
			listed := o.listed
			err := o.once(ctx)
			if ctx.Err() != nil {
				return
			}
			said = said && o.listed == listed
			// Whoever may list, but not watch, would wait for ever.
			lasting := o.listed == 0 || o.listed > listed && apierrors.IsForbidden(err)
			if err != nil && !said {
				said = true
				if !o.send(ctx, change{kind: watch.Error, err: err, lasting: lasting}) || lasting {
					return
				}
			}
			select {
			case <-ctx.Done():
			case <-time.After(retryEvery):
			}
		}
	}()
	return changes
}

// observer has what was given of a list.
type observer struct {
	*cluster
	list    client.ObjectList
	options []client.ListOption
	changes chan<- change
	known   map[types.NamespacedName]client.Object
	// listed is how often the list was read.
	listed int
}

func (o *observer) send(ctx context.Context, c change) bool {
	select {
	case o.changes <- c:
		return true
	case <-ctx.Done():
		return false
	}
}

// once lists, tells what is new since the last time, and watches until that breaks off.
func (o *observer) once(ctx context.Context) error {
	list := o.list.DeepCopyObject().(client.ObjectList)
	if err := o.List(ctx, list, o.options...); err != nil {
		return err
	}
	gone := o.known
	o.known = map[types.NamespacedName]client.Object{}
	items, err := meta.ExtractList(list)
	if err != nil {
		return err
	}
	for _, item := range items {
		object, ok := item.(client.Object)
		if !ok {
			return fmt.Errorf("%T is no object", item)
		}
		key := client.ObjectKeyFromObject(object)
		kind := watch.Added
		if before, known := gone[key]; known {
			delete(gone, key)
			if kind = watch.Modified; before.GetResourceVersion() == object.GetResourceVersion() {
				o.known[key] = object
				continue
			}
		}
		o.tell(ctx, kind, object)
	}
	for _, object := range gone {
		o.tell(ctx, watch.Deleted, object)
	}
	if o.listed++; o.listed == 1 {
		o.send(ctx, change{kind: watch.Bookmark})
	}
	return o.watch(ctx, list)
}

func (o *observer) tell(ctx context.Context, kind watch.EventType, object client.Object) {
	if kind == watch.Deleted {
		delete(o.known, client.ObjectKeyFromObject(object))
	} else {
		o.known[client.ObjectKeyFromObject(object)] = object
	}
	o.send(ctx, change{kind: kind, object: object})
}

// watch tells the changes since a list. A watch that just ends is no error.
func (o *observer) watch(ctx context.Context, list client.ObjectList) error {
	options := &client.ListOptions{}
	options.ApplyOptions(o.options)
	raw := options.AsListOptions()
	raw.ResourceVersion = list.GetResourceVersion()
	options.Raw = raw
	watching, err := o.Watch(ctx, o.list.DeepCopyObject().(client.ObjectList), options)
	if err != nil {
		return err
	}
	defer watching.Stop()
	for event := range watching.ResultChan() {
		switch event.Type {
		case watch.Added, watch.Modified, watch.Deleted:
			object, ok := event.Object.(client.Object)
			if !ok {
				return fmt.Errorf("%T is no object", event.Object)
			}
			o.tell(ctx, event.Type, object)
		case watch.Error:
			err := apierrors.FromObject(event.Object)
			if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
				return nil // the list is asked anew
			}
			return err
		}
	}
	return nil
}

// stopped says why a wait ended: nil when nothing ended it.
func stopped(ctx context.Context) error {
	switch cause := context.Cause(ctx); {
	case cause == nil:
		return nil
	case errors.Is(cause, errTimeout):
		return &ended{status: ExitTimeout}
	default:
		return errInterrupted
	}
}

// withTimeout bounds a wait; zero is no bound.
func withTimeout(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	if timeout <= 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, timeout, errTimeout)
}
