package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrlclient "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/client"
	"github.com/lifeboat-dev/lifeboat/checkpointer/pages"
	"github.com/lifeboat-dev/lifeboat/checkpointer/pages/keeper"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
)

const (
	// retryFor is how long memory that no holder gives is asked for again and
	// again. The processes that need it wait meanwhile.
	retryFor = 30 * time.Second
	// retryEvery is the time between two attempts.
	retryEvery = 500 * time.Millisecond
)

// filling is a restored container whose memory is being filled in while it runs.
type filling struct {
	container client.Container
	daemon    *pages.Daemon
	// kept is the connection to the keeper; nil where there is none.
	kept *keeper.Client
}

// keptRestore is what a later checkpointer needs to go on with a filling.
type keptRestore struct {
	Container  client.Container     `json:"container"`
	Key        store.Key            `json:"key"`
	Generation int64                `json:"generation"`
	Migration  ctrlclient.ObjectKey `json:"migration"`
	Expected   int                  `json:"expected"`
	Claim      *v1alpha1.Claim      `json:"claim"`
}

// fill starts the page daemon of a container that is about to be restored.
func (a *Agent) fill(ctx context.Context, r *restore, c client.Container, work string) (*filling, error) {
	f := &filling{container: c}
	if err := markDraining(filepath.Join(r.dir, c.Name), c); err != nil {
		return nil, err
	}
	var err error
	if f.kept, err = a.keep(r, c); err != nil {
		// Without it the container is killed if this process ends too soon.
		a.log.Warn("nobody else holds the memory of the container while it is filled in", "container", c.Name, "err", err)
	}
	// The daemon must outlive this request.
	f.daemon, err = pages.Start(context.WithoutCancel(ctx), work, containerMemory{r.opened, c.Name}, a.fillOptions(r.opened, f.kept))
	if err != nil {
		f.leave()
		return nil, fmt.Errorf("start the page daemon: %w", err)
	}
	return f, nil
}

func (a *Agent) keep(r *restore, c client.Container) (*keeper.Client, error) {
	registered, err := registration(c.ID)
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(keptRestore{
		Container: c, Key: r.key, Generation: r.opened.number, Expected: r.expected,
		Migration: ctrlclient.ObjectKeyFromObject(r.migration), Claim: r.migration.Status.Claim,
	})
	if err != nil {
		return nil, err
	}
	return keeper.NewClient(client.KeeperSocketPath, keeper.Description{ID: c.ID, CgroupsPath: registered.CgroupsPath, Data: data}), nil
}

// registration is a container as the runtime has noted it.
func registration(id string) (client.Registration, error) {
	var registered client.Registration
	raw, err := os.ReadFile(filepath.Join(client.ContainersFolder, id+".json"))
	if err == nil {
		err = json.Unmarshal(raw, &registered)
	}
	if err != nil {
		return registered, fmt.Errorf("read the registration of the container: %w", err)
	}
	return registered, nil
}

func (a *Agent) fillOptions(o *opened, kept *keeper.Client) pages.Options {
	var began atomic.Pointer[time.Time] // a time without an answer; several goroutines ask
	options := pages.Options{Log: a.log, Retry: func(ctx context.Context, err error, attempts int) bool {
		now := time.Now()
		if attempts == 1 {
			began.Store(&now)
		}
		var damaged *store.Damaged
		if now.Sub(*began.Load()) > retryFor || attempts > 1 && errors.As(err, &damaged) {
			return false // the last place has it, and it is wrong there too
		}
		a.log.Warn("memory cannot be had now; it is asked for again", "pod", o.key.String(), "generation", o.number, "err", err)
		select {
		case <-ctx.Done():
			return false
		case <-time.After(retryEvery):
		}
		a.lookAgain(ctx, o)
		return true
	}}
	if kept != nil {
		options.Keeper = kept
	}
	return options
}

// await waits until all memory of a restored container is filled in. When the
// page daemon fails instead, the container has holes: it is killed, and restored
// again from an older generation where there is one.
func (a *Agent) await(ctx context.Context, r *restore, f *filling) {
	log := a.log.With("pod", f.container.Namespace+"/"+f.container.PodName, "container", f.container.Name)
	err := f.daemon.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.filling[f.container.Name] != f {
		return // another container's failure has ended it
	}
	stats := f.daemon.Stats()
	if err != nil {
		log.Error("memory cannot be filled in; the container is killed", "err", err)
		a.spoil(ctx, r, f, err)
		return
	}
	delete(r.filling, f.container.Name)
	f.leave()
	if err := os.Remove(filepath.Join(r.dir, f.container.Name, drainingFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		log.Error("note that the container is complete", "err", err)
	}
	log.Info("all memory is filled in", "faults", stats.Faults, "faultBytes", stats.FaultBytes, "drainedBytes", stats.DrainedBytes,
		"longestFault", stats.LongestFault, "took", stats.Done.Sub(stats.Restored))
	a.metrics.filled(f.container.Namespace, stats)
	a.history.filled(r.opened.fromOwnStore(), stats)
	for i := range r.status.Containers {
		if r.status.Containers[i].Name == f.container.Name {
			r.status.Containers[i].Filling = false
		}
	}
	a.reportRestore(ctx, r.migration, *r.status.DeepCopy())
	if len(r.filling) == 0 {
		a.forget(f.container.PodUID, r)
	}
}

// stop ends the filling of a container that was not restored, or was killed.
func (f *filling) stop() {
	f.daemon.Stop()
	f.leave()
}

func (f *filling) leave() {
	if f.kept != nil {
		f.kept.Close()
	}
}

// keptRestores are the fillings of an earlier checkpointer of this boot.
func (a *Agent) keptRestores() []keeper.Description {
	kept, err := keeper.List(client.KeeperSocketPath)
	if err != nil {
		a.log.Info("no keeper says what is to be filled in", "err", err)
	}
	return kept
}

// resumeFillings goes on with what an earlier checkpointer of this boot was
// filling in. Where that is not possible the container is killed.
func (a *Agent) resumeFillings(ctx context.Context, kept []keeper.Description) {
	for _, description := range kept {
		if err := a.resume(ctx, description.ID); err != nil {
			a.log.Error("a container's memory cannot be filled in any more; the container was killed", "container", description.ID, "err", err)
		}
	}
}

// resume goes on with one filling. After an error the container is killed.
func (a *Agent) resume(ctx context.Context, id string) (err error) {
	kept, state, err := keeper.Take(client.KeeperSocketPath, id)
	if err != nil {
		return errors.Join(err, a.killContainer(ctx, id))
	}
	f := &filling{kept: kept}
	defer func() {
		if err != nil {
			// In this order: else processes would see zeros where their memory is missing.
			err = errors.Join(err, a.killContainer(ctx, id), kept.Drop())
			state.Close()
		}
	}()
	var was keptRestore
	if err := json.Unmarshal(kept.Description().Data, &was); err != nil {
		return fmt.Errorf("read what is to be filled in: %w", err)
	}
	f.container = was.Container
	m := &v1alpha1.Migration{}
	m.Namespace, m.Name = was.Migration.Namespace, was.Migration.Name
	if err := a.api.Get(ctx, was.Migration, m); err != nil {
		a.log.Warn("get the migration of a restore that goes on", "migration", was.Migration, "err", err)
	}
	if m.Status.Claim == nil {
		m.Status.Claim = was.Claim
	}
	r := a.restoreOf(was.Container.PodUID, m, was.Expected)
	r.mu.Lock()
	defer r.mu.Unlock()
	if m.Status.Restore != nil {
		r.status = *m.Status.Restore.DeepCopy()
	} else {
		r.status.StartedAt = metav1.NewMicroTime(time.Now())
	}
	for _, c := range r.status.Containers {
		r.asked[c.Name] = true
	}
	r.asked[was.Container.Name] = true
	r.prepared, r.dir = true, filepath.Join(restoreFolder, was.Container.PodUID)
	if r.opened == nil {
		r.opened, err = a.openAgain(ctx, was)
	}
	if err == nil {
		f.daemon, err = pages.Resume(context.WithoutCancel(ctx), state, containerMemory{r.opened, was.Container.Name}, a.fillOptions(r.opened, kept))
	}
	if err != nil {
		if len(r.filling) == 0 {
			a.discard(was.Container.PodUID, r)
		}
		return err
	}
	r.filling[was.Container.Name] = f
	folder := filepath.Join(r.dir, was.Container.Name)
	if err := errors.Join(os.MkdirAll(folder, 0o700), markDraining(folder, was.Container)); err != nil {
		a.log.Warn("note that the container is being filled in", "err", err)
	}
	go a.await(context.WithoutCancel(ctx), r, f)
	a.log.Info("the filling in of a container's memory goes on", "pod", was.Container.Namespace+"/"+was.Container.PodName, "container", was.Container.Name)
	return nil
}

// openAgain opens the generation of a filling: in the own store, or else at a holder.
func (a *Agent) openAgain(ctx context.Context, was keptRestore) (*opened, error) {
	o := &opened{log: a.log, key: was.Key, number: was.Generation, store: a.store}
	a.lookAgain(ctx, o)
	reader, err := a.store.OpenReader(ctx, was.Key, was.Generation, nil)
	if err == nil {
		o.reader = reader
		return o, nil
	}
	reader, turnErr := o.turn(ctx, nil)
	if reader == nil {
		return nil, errors.Join(err, turnErr, fmt.Errorf("no other holder gives generation %d of %s", was.Generation, was.Key))
	}
	return o, nil
}
