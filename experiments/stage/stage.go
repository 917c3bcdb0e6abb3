// Package stage carries out one run of the experiments after another on a local cluster.
package stage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/rand"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/e2e/cluster"
	"github.com/lifeboat-dev/lifeboat/e2e/deploy"
	"github.com/lifeboat-dev/lifeboat/e2e/observe"
	"github.com/lifeboat-dev/lifeboat/experiments/load"
	"github.com/lifeboat-dev/lifeboat/experiments/matrix"
	"github.com/lifeboat-dev/lifeboat/experiments/move"
	"github.com/lifeboat-dev/lifeboat/experiments/subject"
)

const (
	// ahead and behind are how long the clients work before a move and after it.
	ahead, behind = 3 * time.Second, 3 * time.Second
	// moveLimit bounds a move. What is not done by then counts as failed.
	moveLimit = 3 * time.Minute
	// stepLimit bounds everything else, one at a time.
	stepLimit = 5 * time.Minute
	// answerLimit is how long after a move clients may be without an answer.
	answerLimit = 30 * time.Second
	// generations more are durable ahead of a move than when the memory was filled.
	generations = 1
)

// Stage is a cluster with Lifeboat.
type Stage struct {
	Cluster *cluster.Cluster
	API     client.Client
	// Logs is the folder for the logs of all requests; empty keeps none.
	Logs string
	// Machine and Version go into each row.
	Machine, Version string
}

// Start builds all that is needed and starts a cluster for some applications.
func Start(ctx context.Context, config cluster.Config, applications []matrix.Application) (*Stage, error) {
	folder, err := config.Folder()
	if err != nil {
		return nil, err
	}
	built := filepath.Join(folder, "built", config.Name)
	if err := os.MkdirAll(built, 0o755); err != nil {
		return nil, fmt.Errorf("build the applications: %w", err)
	}
	config.Progress("building the applications")
	images, err := subject.Images(ctx, filepath.Join(folder, "cache"), built, applications)
	if err != nil {
		return nil, err
	}
	config.Images = append(config.Images, images...)
	c, api, err := deploy.Start(ctx, config)
	if err != nil {
		return nil, err
	}
	return &Stage{Cluster: c, API: api, Machine: machine(), Version: version(ctx)}, nil
}

// Stop removes the cluster.
func (s *Stage) Stop() error { return deploy.Stop(s.Cluster) }

// act is one run.
type act struct {
	*Stage
	run      matrix.Run
	scene    *move.Scene
	strategy move.Strategy
	client   subject.Client
}

// Run carries out a run and returns what was measured. An error says that nothing was.
func (s *Stage) Run(ctx context.Context, run matrix.Run) (row matrix.Row, err error) {
	begin := time.Now()
	strategy, err := move.Of(run.Strategy)
	if err != nil {
		return row, err
	}
	a := &act{Stage: s, run: run, strategy: strategy, scene: &move.Scene{
		Cluster: s.Cluster, API: s.API, Cell: run.Cell, Namespace: "experiment-" + rand.String(6),
	}}
	defer func() {
		// After an interrupt the cluster is removed anyway.
		if ctx.Err() == nil {
			limited, cancel := context.WithTimeout(ctx, stepLimit)
			defer cancel()
			err = errors.Join(err, a.clean(limited))
		}
		row.TookSeconds = time.Since(begin).Seconds()
	}()
	if err := a.open(ctx); err != nil {
		return row, err
	}
	row, err = a.measure(ctx)
	row.At = begin
	return row, err
}

// open starts the application and waits until it can be moved.
func (a *act) open(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	s := a.scene
	if err := deploy.Whole(ctx, a.Cluster, a.API, func(string) {}); err != nil {
		return err
	}
	service := subject.Service(s.Cell, s.Namespace)
	for _, object := range []client.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.Namespace}}, service, subject.Object(s.Cell, s.Namespace),
	} {
		if err := a.API.Create(ctx, object); err != nil {
			return fmt.Errorf("create %T %s: %w", object, object.GetName(), err)
		}
	}
	var err error
	if s.Pod, err = observe.ReadyPod(ctx, a.API, s.Namespace, subject.Labels); err != nil {
		return err
	}
	if a.client, err = subject.Connect(s.Cell, a.Cluster.Dial, service.Spec.ClusterIP); err != nil {
		return err
	}
	err = observe.Until(ctx, "the Service leads to the application", func(ctx context.Context) (bool, string, error) {
		ctx, cancel := context.WithTimeout(ctx, load.Usual.Timeout)
		defer cancel()
		err := a.client.Read(ctx)
		return err == nil, "", err
	})
	if err != nil {
		return err
	}
	if err := a.client.Prepare(ctx); err != nil {
		return err
	}
	if s.Cell.Protected() {
		// The one that may be under way was begun before.
		first, err := observe.Durable(ctx, a.API, s.Pod, 1)
		if err != nil {
			return err
		}
		if _, err := observe.Durable(ctx, a.API, s.Pod, first.Status.Generation+generations); err != nil {
			return err
		}
	}
	return a.strategy.Prepare(ctx, s)
}

// measure lets clients work, moves the application, and takes down what they saw.
func (a *act) measure(ctx context.Context) (matrix.Row, error) {
	row := matrix.NewRow(a.run)
	row.Machine, row.Version = a.Machine, a.Version
	working, stop := context.WithCancel(ctx)
	defer stop()
	work := load.Usual
	switch a.run.Load {
	case matrix.Writes:
		work = load.Writing()
	case matrix.Rewriting:
		go a.client.Rewrite(working)
	}
	before, err := a.client.Rewritten(ctx)
	if err != nil {
		return row, err
	}
	begin := time.Now()
	clients := load.Start(ctx, a.client, work)
	if err := pause(ctx, ahead); err != nil {
		clients.Stop()
		return row, err
	}
	outcome, err := move.Within(ctx, moveLimit, a.strategy, a.scene)
	if err == nil {
		err = a.answered(ctx, clients, &outcome)
	}
	if err == nil {
		err = pause(ctx, behind)
	}
	requests, end := clients.Stop(), time.Now()
	if err != nil {
		return row, err
	}
	if a.run.Load == matrix.Rewriting {
		// Of a process that started anew, or does not answer, it is not known.
		if now, err := a.client.Rewritten(ctx); err == nil && now >= before {
			row.RewrittenMBs = round(float64(now-before) / (1 << 20) / end.Sub(begin).Seconds())
		}
	}
	stop()
	a.conclude(&row, outcome, requests, begin, end)
	if a.Logs != "" {
		if err := load.Save(filepath.Join(a.Logs, fileName(a.run)), requests); err != nil {
			return row, err
		}
	}
	err = a.inspect(ctx, &row, requests)
	return row, err
}

// answered waits until a client has an answer after the move's end.
func (a *act) answered(ctx context.Context, clients *load.Clients, outcome *move.Outcome) error {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	done := time.Now()
	err := observe.Until(ctx, "a client is answered after the move", func(context.Context) (bool, string, error) {
		requests := clients.Requests()
		last := "no request"
		for i := len(requests) - 1; i >= 0 && requests[i].Start.After(done); i-- {
			if requests[i].OK() {
				return true, "", nil
			}
			last = requests[i].Error
		}
		return false, last, nil
	})
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		outcome.Result, outcome.Reason = matrix.ResultNoAnswer, outcome.Result
		outcome.Message = err.Error()
		return nil
	}
	return err
}

func fileName(run matrix.Run) string {
	return fmt.Sprintf("%s-%s-%s-%d-%s-%s-%d.csv.gz", run.Application, run.Owner, run.Strategy, run.MemoryMB, run.Load, run.Content, run.Number)
}

// clean removes the application, and all that its move has changed in the cluster.
func (a *act) clean(ctx context.Context) error {
	if a.client != nil {
		a.client.Close()
	}
	var err error
	if a.scene.Pod != nil {
		err = a.strategy.Clean(ctx, a.scene)
	}
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: a.scene.Namespace}}
	if err := a.API.Delete(ctx, namespace); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("delete namespace %s: %w", namespace.Name, err)
	}
	return errors.Join(err, observe.Until(ctx, "the run's namespace is gone", func(ctx context.Context) (bool, string, error) {
		err := a.API.Get(ctx, types.NamespacedName{Name: namespace.Name}, namespace)
		if apierrors.IsNotFound(err) {
			return true, "", nil
		}
		return false, fmt.Sprint(namespace.Status.Conditions), err
	}))
}

// pause waits.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
