package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/hooks"
	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
)

// Where an application's new pod cannot be beside the old one, its state is staged: the
// old pod exports it, it is sealed and copied as a generation is, and the new pod imports
// it. The store keeps it apart from the pod's generations, which are memory.

// stateFile is the one file of a state that is staged.
const stateFile = "state"

// stateKey is what the state that a Migration stages is kept under.
func stateKey(m *v1alpha1.Migration) store.Key {
	return store.Key{Namespace: m.Namespace, PodUID: string(m.StateUID())}
}

// isState says whether a store's key is one of stateKey.
func isState(key store.Key) bool { return strings.HasSuffix(key.PodUID, "-state") }

// takeState has a pod's application export its state, and stops the pod at once: what it
// does in between is no part of the state. It is the take of a stopper.
func (a *Agent) takeState(ctx context.Context, m *v1alpha1.Migration, state podState, calls *hookCalls) (last v1alpha1.HeldCheckpoint, pod held, err error) {
	key := stateKey(m)
	number, err := a.nextGeneration(key, 0)
	if err != nil {
		return last, nil, err
	}
	g := store.Generation{Number: number, PodName: state.pod.Name}
	if g.Epoch, err = a.epoch(ctx, state.pod); err != nil {
		return last, nil, err
	}
	dir := filepath.Join(stagingFolder, key.PodUID, strconv.FormatInt(number, 10))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return last, nil, fmt.Errorf("make the staging folder: %w", err)
	}
	defer os.RemoveAll(filepath.Dir(dir))
	if err := a.exportTo(ctx, state, filepath.Join(dir, stateFile), calls); err != nil {
		return last, nil, err
	}
	target, err := a.runtime.target(ctx, a.host, state.pod)
	if err != nil {
		return last, nil, err
	}
	g.TakenAt = time.Now()
	hold, err := a.engine.Hold(ctx, target)
	if err != nil {
		return last, nil, err
	}
	a.mu.Lock()
	g.Facts = a.facts
	a.mu.Unlock()
	sealed, err := a.store.Seal(ctx, key, g, dir, nil)
	if err != nil {
		release, cancel := context.WithTimeout(context.WithoutCancel(ctx), killTime)
		defer cancel()
		return last, nil, errors.Join(fmt.Errorf("keep the application's state: %w", err), hold.Release(release))
	}
	return v1alpha1.HeldCheckpoint{
		Generation: sealed.Number, TakenAt: metav1.NewMicroTime(sealed.TakenAt), Bytes: sealed.Bytes, Holders: []string{a.cfg.NodeName},
	}, hold, nil
}

// exportTo writes what the application exports into a file, and notes how that ended.
func (a *Agent) exportTo(ctx context.Context, state podState, file string, calls *hookCalls) error {
	hook := state.protection.StateExport
	if hook == nil {
		return fmt.Errorf("the pod has no annotation %s", v1alpha1.AnnotationStateExport)
	}
	began := time.Now()
	bytes, err := a.exported(ctx, state.pod, hook, file)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	text := ""
	if err == nil {
		text = fmt.Sprintf("%d bytes", bytes)
	}
	return a.noteHook(state.pod, hooks.Result(hookStateExport, containerOfHook(state.pod, hook), text, time.Since(began), err), calls)
}

func (a *Agent) exported(ctx context.Context, pod *corev1.Pod, hook *v1alpha1.Hook, file string) (bytes int64, err error) {
	in, err := a.hookContainer(ctx, pod, hook)
	if err != nil {
		return 0, err
	}
	ctx, cancel := hookTime(ctx, hook)
	defer cancel()
	response, err := a.hooks.Do(ctx, http.MethodGet, hook, in, nil)
	if err != nil {
		return 0, errors.Join(err, context.Cause(ctx))
	}
	defer response.Body.Close()
	into, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	bytes, err = io.Copy(into, response.Body)
	if err != nil {
		err = errors.Join(fmt.Errorf("read the application's state: %w", err), context.Cause(ctx))
	}
	return bytes, errors.Join(err, into.Close())
}

// freeHook calls the post-restore hook of a pod that goes on after an earlier checkpointer
// was about to stop it: what the other hook may have held goes on.
func (a *Agent) freeHook(ctx context.Context, m *v1alpha1.Migration) []v1alpha1.HookResult {
	pod := a.podHere(ctx, m.Namespace, m.Spec.Pod.Name, m.Spec.Pod.UID)
	if pod == nil {
		return nil
	}
	protection, err := v1alpha1.ParseAnnotations(pod.Annotations)
	if err != nil || protection.PreCheckpoint == nil {
		return nil
	}
	calls := &hookCalls{}
	_ = a.callHook(ctx, pod, hookPostRestore, protection.PostRestore, calls)
	return calls.results
}

// stateAge is how old a state must be to be removed as one that no Migration needs: by
// then the cache shows the Migration that it is of.
const stateAge = time.Minute

// dropState removes a state that was staged, once the Migration that it is of is over.
func (a *Agent) dropState(ctx context.Context, key store.Key) error {
	var migrations v1alpha1.MigrationList
	if err := a.cache.List(ctx, &migrations, inNamespace(key.Namespace)); err != nil {
		return fmt.Errorf("list migrations: %w", err)
	}
	for i := range migrations.Items {
		if m := &migrations.Items[i]; m.Open() && m.StateUID() == types.UID(key.PodUID) {
			return nil
		}
	}
	kept, err := a.store.List(key)
	if err != nil || len(kept) > 0 && time.Since(kept[0].TakenAt) < stateAge {
		return err
	}
	wanted, err := a.wantedPods(ctx, key.Namespace, false)
	if err != nil || wanted[key.PodUID] {
		return err
	}
	a.log.Info("remove the state of an application that has moved", "pod", key.String())
	if err := a.store.Remove(key); !errors.Is(err, store.ErrInUse) {
		return err
	}
	return nil // it is being read: later
}
