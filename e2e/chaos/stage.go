package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/rand"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/cluster"
	"github.com/lifeboat-dev/lifeboat/e2e/deploy"
	"github.com/lifeboat-dev/lifeboat/e2e/observe"
	"github.com/lifeboat-dev/lifeboat/e2e/witness"
	"github.com/lifeboat-dev/lifeboat/e2e/witness/workload"
)

const (
	// patience bounds each wait: whatever has not come by then never comes.
	patience = 2 * time.Minute
	// generations are durable of each stepper before something goes wrong.
	generations = 2
)

// steppers are the workloads of every scenario whose every step is judged, and everybody
// all of them.
var (
	steppers  = []string{workload.Ledger, workload.Counter}
	everybody = append(steppers[:len(steppers):len(steppers)], redisName)
)

// stage is where a scenario takes place: a namespace with two steppers, a witness, and
// what keeps their logs.
type stage struct {
	*theatre
	namespace string
	logs      *recorder
	counter   *counter               // of redis
	runID     string                 // of redis before anything went wrong
	pods      map[string]*corev1.Pod // everybody's pods before anything went wrong
	from      time.Time              // since when all must go well
	undos     []func(context.Context) error
	notes     []string
	held      map[v1alpha1.HeldReason]bool
}

// theatre is what all scenarios share.
type theatre struct {
	cluster  *cluster.Cluster
	api      client.Client
	witness  *witness.Witness
	address  string // of the witness
	progress func(format string, args ...any)
}

// perform runs a scenario from beginning to end.
func (t *theatre) perform(ctx context.Context, sc scenario) *result {
	begin := time.Now()
	r := &result{scenario: sc}
	s := &stage{theatre: t, namespace: "chaos-" + rand.String(5), held: map[v1alpha1.HeldReason]bool{}}
	if err := s.open(ctx, sc); err != nil {
		r.err = fmt.Errorf("before anything went wrong: %w", err)
	} else {
		t.progress("%s: ledger on %s, counter on %s", sc.name, s.node(workload.Ledger), s.node(workload.Counter))
		r.err = s.breakAndMend(ctx, sc)
	}
	// What follows must happen also after an interruption.
	after, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	if s.logs != nil {
		r.err = errors.Join(r.err, s.conclude(after, r))
		s.logs.close()
	}
	r.notes, r.held = append(s.notes, r.notes...), s.held
	if len(r.faults()) > 0 {
		r.err = errors.Join(r.err, s.describe(after, r))
	}
	if ctx.Err() == nil {
		r.err = errors.Join(r.err, s.remove(after))
	}
	r.took = time.Since(begin)
	return r
}

// open makes the namespace and waits until both steppers can be lost.
func (s *stage) open(ctx context.Context, sc scenario) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := deploy.Whole(ctx, s.cluster, s.api, func(string) {}); err != nil {
		return err
	}
	free, err := s.freeNodes(ctx)
	if err != nil {
		return err
	}
	if len(free) == 0 {
		return errors.New("every node has a watcher: use more nodes")
	}
	first, second := free[0], free[0]
	if sc.apart {
		if len(free) < 2 {
			return errors.New("the scenario needs two nodes without a watcher: use more nodes")
		}
		second = free[1]
	}
	s.logs = record(context.WithoutCancel(ctx), s.cluster, s.namespace)
	ledger, counting := workload.StatefulSet(s.namespace, s.address, first), workload.Deployment(s.namespace, s.address, second)
	redis := redisSet(s.namespace, ledger)
	if sc.replicas > 0 {
		for _, template := range []*corev1.PodTemplateSpec{&ledger.Spec.Template, &counting.Spec.Template, &redis.Spec.Template} {
			template.Annotations[v1alpha1.AnnotationReplicas] = strconv.Itoa(sc.replicas)
		}
	}
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.namespace}}
	for _, object := range []client.Object{namespace, ledger, redis, counting} {
		if err := s.api.Create(ctx, object); err != nil {
			return fmt.Errorf("create %T %s: %w", object, object.GetName(), err)
		}
	}
	s.pods = map[string]*corev1.Pod{}
	for _, name := range everybody {
		if s.pods[name], err = observe.ReadyPod(ctx, s.api, s.namespace, workload.Labels(name)); err != nil {
			return err
		}
	}
	s.counter = &counter{dial: s.cluster.Dial, find: s.redisAddress()}
	if s.runID, err = s.counter.runID(ctx); err != nil {
		return err
	}
	s.counter.start(context.WithoutCancel(ctx))
	for _, name := range everybody {
		if _, err := observe.Durable(ctx, s.api, s.pods[name], generations); err != nil {
			return err
		}
		if err := s.steps(ctx, name); err != nil {
			return err
		}
	}
	s.from = time.Now()
	return nil
}

// breakAndMend does what goes wrong, mends it, and waits until both steppers work.
func (s *stage) breakAndMend(ctx context.Context, sc scenario) error {
	err := func() error {
		ctx, cancel := context.WithTimeout(ctx, 2*patience)
		defer cancel()
		return sc.fault(ctx, s)
	}()
	mending, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	err = errors.Join(err, s.mend(mending))
	if ctx.Err() != nil {
		return errors.Join(err, ctx.Err())
	}
	err = errors.Join(err, s.replaceHeldBack(mending))
	settled, cancelSettled := context.WithTimeout(ctx, patience)
	defer cancelSettled()
	if wholeErr := deploy.Whole(settled, s.cluster, s.api, func(string) {}); wholeErr != nil {
		err = errors.Join(err, fmt.Errorf("after it was mended: %w", wholeErr))
	}
	if settleErr := s.settle(settled); settleErr != nil {
		err = errors.Join(err, fmt.Errorf("after it was mended: %w", settleErr))
	}
	return err
}

// settle waits until no Migration is open and each stepper's ready pod makes steps.
func (s *stage) settle(ctx context.Context) error {
	err := observe.Until(ctx, "every Migration is closed", func(ctx context.Context) (bool, string, error) {
		migrations, err := s.migrations(ctx)
		for _, m := range migrations {
			if m.Open() {
				return false, fmt.Sprintf("Migration %s of %s in phase %s, held %v", m.Name, m.Spec.Pod.Name, m.Status.Phase, m.Status.Held), nil
			}
		}
		return err == nil, "", err
	})
	if err != nil {
		return err
	}
	for _, name := range everybody {
		if _, err := observe.ReadyPod(ctx, s.api, s.namespace, workload.Labels(name)); err != nil {
			return err
		}
		if err := s.steps(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// note puts a remark into the scenario's row.
func (s *stage) note(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	s.notes = append(s.notes, text)
	s.progress("  %s", text)
}

// undo has something done once the scenario's fault is over, whatever came of it. What
// is passed last is done first.
func (s *stage) undo(f func(context.Context) error) { s.undos = append(s.undos, f) }

func (s *stage) mend(ctx context.Context) error {
	var all error
	for _, f := range slices.Backward(s.undos) {
		all = errors.Join(all, f(ctx))
	}
	s.undos = nil
	if all != nil {
		return fmt.Errorf("mend: %w", all)
	}
	return nil
}

// remove deletes the namespace and waits until it is gone.
func (s *stage) remove(ctx context.Context) error {
	object := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.namespace}}
	if err := s.api.Delete(ctx, object); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("remove the steppers: %w", err)
	}
	return observe.Until(ctx, "namespace "+s.namespace+" is gone", func(ctx context.Context) (bool, string, error) {
		err := s.api.Get(ctx, client.ObjectKeyFromObject(object), object)
		if apierrors.IsNotFound(err) {
			return true, "", nil
		}
		return false, fmt.Sprint(object.Status.Conditions), err
	})
}

// node is where a stepper ran before anything went wrong.
func (s *stage) node(name string) string { return s.pods[name].Spec.NodeName }

// migrations are those of the scenario; it takes note of reasons to hold them.
func (s *stage) migrations(ctx context.Context) ([]v1alpha1.Migration, error) {
	var list v1alpha1.MigrationList
	if err := s.api.List(ctx, &list, client.InNamespace(s.namespace)); err != nil {
		return nil, fmt.Errorf("list the Migrations: %w", err)
	}
	for _, m := range list.Items {
		if m.Status.Held != nil && !s.held[m.Status.Held.Reason] {
			s.held[m.Status.Held.Reason] = true
			s.note("held: %s: %s", m.Status.Held.Reason, m.Status.Held.Message)
		}
	}
	return list.Items, nil
}

// steps waits until a program does something from now on: the witness sees a step of a
// stepper, or redis counts.
func (s *stage) steps(ctx context.Context, name string) error {
	now := time.Now()
	if name == redisName {
		return observe.Until(ctx, "redis counts", func(context.Context) (bool, string, error) {
			last, counts := s.counter.last()
			return counts && last.at.After(now), fmt.Sprintf("%d at %s", last.value, last.at.Format(time.TimeOnly)), nil
		})
	}
	return observe.Until(ctx, "the witness hears "+name, func(context.Context) (bool, string, error) {
		last, heard := s.witness.Last(workload.Name(s.namespace, name))
		return heard && last.Step.At.After(now), fmt.Sprintf("last step %d of %s", last.Step.Number, last.At.Format(time.TimeOnly)), nil
	})
}

// recovered waits until the steppers' first pods have been recovered and their
// successors make steps.
func (s *stage) recovered(ctx context.Context, names ...string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for _, name := range names {
		if _, err := observe.Closed(ctx, s.api, s.pods[name]); err != nil {
			return err
		}
		if err := s.steps(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// lasts waits for as long as something is to go wrong, and looks meanwhile for reasons
// why recoveries are held. The API may be away.
func (s *stage) lasts(ctx context.Context, d time.Duration) error {
	over := time.NewTimer(d)
	defer over.Stop()
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-over.C:
			return nil
		case <-ticker.C:
			look, cancel := context.WithTimeout(ctx, time.Second)
			_, _ = s.migrations(look)
			cancel()
		}
	}
}

// watchers are Lifeboat's watchers, the leading one first.
func (s *stage) watchers(ctx context.Context) ([]corev1.Pod, error) {
	return watchers(ctx, s.api)
}

// freeNodes are the nodes without a watcher.
func (s *stage) freeNodes(ctx context.Context) ([]string, error) {
	pods, err := s.watchers(ctx)
	if err != nil {
		return nil, err
	}
	names, err := deploy.NodeNames(s.cluster)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(names, func(name string) bool {
		return slices.ContainsFunc(pods, func(pod corev1.Pod) bool { return pod.Spec.NodeName == name })
	}), nil
}
