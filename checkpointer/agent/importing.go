package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrlclient "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/hooks"
)

const (
	// importTries is how often an import may fail before the pod keeps what it has.
	importTries = 10
	// importPause is the time after the first import that failed. It doubles with each, up
	// to importPauseMost.
	importPause     = time.Second
	importPauseMost = 30 * time.Second
	// answerEvery is how often an application is asked that does not listen yet.
	answerEvery = 100 * time.Millisecond
)

// pauseAfter is how long to wait after the given number of imports that failed.
func pauseAfter(failed int32) time.Duration {
	pause := importPause
	for range failed - 1 {
		pause = min(2*pause, importPauseMost)
	}
	return pause
}

// errNotYet means that the pod does not answer yet, which is no failure.
var errNotYet = errors.New("the application does not listen yet")

// importing is the import of one state that is staged into one pod.
type importing struct {
	agent  *Agent
	m      *v1alpha1.Migration
	pod    *corev1.Pod
	hook   *v1alpha1.Hook
	dir    string // has the state, once it is there
	status v1alpha1.RestoreStatus
}

// importStaged brings a state that is staged into the claim's pod, again and again until
// its application has taken it, or has refused it too often. It returns whether it has
// told how that ended.
func (a *Agent) importStaged(ctx context.Context, m *v1alpha1.Migration, pod *corev1.Pod) (told bool) {
	i := &importing{agent: a, m: m, pod: pod, dir: filepath.Join(restoreFolder, string(pod.UID)+"-state"),
		status: v1alpha1.RestoreStatus{PodUID: pod.UID, StartedAt: metav1.NewMicroTime(time.Now())}}
	defer os.RemoveAll(i.dir)
	if before := m.Status.Restore; before != nil && before.PodUID == pod.UID {
		i.status.Attempts = before.Attempts
	}
	protection, err := v1alpha1.ParseAnnotations(pod.Annotations)
	if err == nil && protection.StateImport == nil {
		err = fmt.Errorf("the pod has no annotation %s", v1alpha1.AnnotationStateImport)
	}
	if err != nil {
		return i.fail(ctx, err)
	}
	i.hook = protection.StateImport
	if before := m.Status.Restore; i.has(before) {
		i.status = *before.DeepCopy() // an earlier checkpointer has come as far as this
		return i.commit(ctx)
	}
	for {
		container, err := a.hookContainer(ctx, pod, i.hook)
		if err != nil {
			return false // it does not run yet
		}
		i.status.StartedAt = metav1.NewMicroTime(time.Now())
		answer, err := i.once(ctx, container)
		if ctx.Err() != nil || !i.wanted(ctx) {
			return false
		}
		took := time.Since(i.status.StartedAt.Time)
		if err == nil {
			calls := &hookCalls{}
			_ = a.noteHook(pod, hooks.Result(hookStateImport, container.Name, answer, took, nil), calls)
			_ = a.callHook(ctx, pod, hookPostRestore, protection.PostRestore, calls)
			i.status.Hooks = calls.results
			if !i.tell(ctx) {
				return false
			}
			i.secure(ctx)
			if again, err := a.hookContainer(ctx, pod, i.hook); err != nil || again.ID != container.ID {
				i.status.Hooks = nil
				continue // it began anew meanwhile, without the state
			}
			return i.commit(ctx)
		}
		pause := answerEvery
		if !errors.Is(err, errNotYet) {
			i.status.Attempts++
			i.note(err, took)
			if i.status.Attempts >= importTries {
				return i.fail(ctx, err)
			}
			if !i.tell(ctx) {
				return false
			}
			pause = pauseAfter(i.status.Attempts)
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(pause):
		}
	}
}

// has says whether the application has taken the state already, as was told of its pod, and
// has run since.
func (i *importing) has(told *v1alpha1.RestoreStatus) bool {
	if told == nil || told.PodUID != i.pod.UID {
		return false
	}
	name := containerOfHook(i.pod, i.hook)
	taken := slices.ContainsFunc(told.Hooks, func(r v1alpha1.HookResult) bool {
		return r.Name == hookStateImport && r.Succeeded && r.Container == name
	})
	return taken && slices.ContainsFunc(i.pod.Status.ContainerStatuses, func(s corev1.ContainerStatus) bool {
		return s.Name == name && s.State.Running != nil && s.State.Running.StartedAt.Unix() <= told.StartedAt.Unix()
	})
}

// tell tells how far the import has come, until that is written or the pod is not to have
// the state any more. Once the application has it, whoever goes on from here does not
// import it once more: the application serves already.
func (i *importing) tell(ctx context.Context) bool {
	for {
		current := &v1alpha1.Migration{}
		err := once(ctx, func(ctx context.Context) error {
			err := i.agent.api.Get(ctx, ctrlclient.ObjectKeyFromObject(i.m), current)
			if err == nil && current.UID == i.m.UID && current.AwaitsImport(i.pod.UID) {
				return i.agent.patchCommitted(ctx, current, i.status)
			}
			return err
		})
		if ctrlclient.IgnoreNotFound(err) == nil {
			return err == nil && current.UID == i.m.UID && current.AwaitsImport(i.pod.UID)
		}
		if !apierrors.IsConflict(err) {
			i.agent.log.Warn("tell how the import of an application's state goes; trying again", "migration", i.m.Namespace+"/"+i.m.Name, "err", err)
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(tryAgain):
		}
	}
}

// secureTime bounds the first generation of a pod that has its state.
const secureTime = time.Minute

// secure takes the pod's first generation, so that the loss of its node is none of the
// state from the moment on at which what was staged is not used any more. Where that
// cannot be, the state is the pod's all the same.
func (i *importing) secure(ctx context.Context) {
	a := i.agent
	ctx, cancel := context.WithTimeout(ctx, secureTime)
	defer cancel()
	log := a.log.With("pod", i.pod.Namespace+"/"+i.pod.Name)
	if err := a.refreshPods(ctx); err != nil {
		log.Warn("no generation is taken of a state that was imported", "err", err)
		return
	}
	a.mu.Lock()
	known := a.pods[string(i.pod.UID)]
	if known == nil || refuse(known.pod, known.protection) != nil {
		a.mu.Unlock()
		return
	}
	state := *known
	a.mu.Unlock()
	state.turn.Lock()
	defer state.turn.Unlock()
	sealed, holders, pause, err := a.checkpoint(ctx, state)
	if err != nil {
		log.Warn("no generation is taken of a state that was imported", "err", err)
		return
	}
	a.metrics.observe(state.pod, sealed, pause)
	a.protected(ctx, state, sealed, holders, pause)
}

// wanted says whether the pod is still to have the state, as far as is known.
func (i *importing) wanted(ctx context.Context) bool {
	current := i.agent.cachedMigration(ctx, i.m)
	return current != nil && current.ClaimedBy(i.pod.UID) && partOf(current, i.agent.cfg.NodeName, nil) == partImport &&
		i.agent.podHere(ctx, i.pod.Namespace, i.pod.Name, i.pod.UID) != nil
}

// once tries the import once, and returns what the application answers.
func (i *importing) once(ctx context.Context, in hooks.Container) (answer string, err error) {
	file, err := i.file(ctx)
	if err != nil {
		return "", err
	}
	defer file.Close()
	ctx, cancel := hookTime(ctx, i.hook)
	defer cancel()
	body := newWhole(file)
	response, err := i.agent.hooks.Do(ctx, http.MethodPost, i.hook, in, io.NopCloser(body))
	var dial *net.OpError
	switch {
	case errors.As(err, &dial) && dial.Op == "dial":
		return "", fmt.Errorf("%w: %w", errNotYet, err)
	case err != nil:
		return "", errors.Join(err, context.Cause(ctx))
	}
	raw, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	return string(raw), errors.Join(err, response.Body.Close(), body.end(endTime))
}

// file opens the state, all of which was verified. The first time it is brought here.
func (i *importing) file(ctx context.Context) (*os.File, error) {
	name := filepath.Join(i.dir, stateFile)
	if file, err := os.Open(name); err == nil {
		return file, nil
	}
	if err := i.agent.bringState(ctx, i.m, i.dir); err != nil {
		return nil, errors.Join(fmt.Errorf("bring the application's state here: %w", err), os.RemoveAll(i.dir))
	}
	return os.Open(name)
}

// bringState brings a state that is staged into a folder, from this node's store or from
// another one that has it.
func (a *Agent) bringState(ctx context.Context, m *v1alpha1.Migration, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, prepareTimeout)
	defer cancel()
	key, last := stateKey(m), m.Status.Source.Checkpoint
	if last == nil {
		return errors.New("the source has not told what it has kept")
	}
	opened, err := a.open(ctx, key, a.lastGeneration(ctx, key, m), nil, dir)
	if err == nil {
		opened.close()
		return nil
	}
	errs := []error{err}
	for _, c := range a.candidates(ctx, key) { // another one may have a copy of it
		if c.generation.Number != last.Generation {
			continue
		}
		if opened, err = a.open(ctx, key, c, nil, dir); err == nil {
			opened.close()
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// note keeps what came of the last import that failed.
func (i *importing) note(err error, took time.Duration) {
	calls := &hookCalls{}
	_ = i.agent.noteHook(i.pod, hooks.Result(hookStateImport, containerOfHook(i.pod, i.hook), "", took, err), calls)
	i.status.Hooks = calls.results
}

// fail tells that the pod will not have the state.
func (i *importing) fail(ctx context.Context, err error) (told bool) {
	hook := i.hook
	if hook == nil {
		hook = &v1alpha1.Hook{} // of the pod's first container
	}
	i.status.Containers = []v1alpha1.ContainerRestore{{
		Name: containerOfHook(i.pod, hook), Result: v1alpha1.ResultColdStarted, Reason: v1alpha1.ReasonImportFailed, Message: err.Error(),
	}}
	return i.commit(ctx)
}

// commit tells how the import ended, until that is written or the claim is another pod's.
// Nothing is imported once more meanwhile: the application serves already.
func (i *importing) commit(ctx context.Context) (told bool) {
	for {
		_, refused := i.agent.commitRestore(ctx, i.m, i.status)
		if refused == "" {
			return true
		}
		i.agent.log.Warn("tell how the application's state was imported", "migration", i.m.Namespace+"/"+i.m.Name, "refused", refused)
		current := &v1alpha1.Migration{}
		err := once(ctx, func(ctx context.Context) error {
			return i.agent.api.Get(ctx, ctrlclient.ObjectKeyFromObject(i.m), current)
		})
		if ctrlclient.IgnoreNotFound(err) == nil && (err != nil || !current.AwaitsImport(i.pod.UID)) {
			return false
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(tryAgain):
		}
	}
}

// awaitsImport says whether a pod of this node is to take over a state and has not yet:
// a generation of it would be of nothing, and newer than what it is to have.
func (a *Agent) awaitsImport(ctx context.Context, pod *corev1.Pod) bool {
	var list v1alpha1.MigrationList
	if err := a.cache.List(ctx, &list, inNamespace(pod.Namespace)); err != nil {
		a.log.Error("look whether a pod is to import a state", "pod", pod.Namespace+"/"+pod.Name, "err", err)
		return false
	}
	return slices.ContainsFunc(list.Items, func(m v1alpha1.Migration) bool { return m.AwaitsImport(pod.UID) })
}
