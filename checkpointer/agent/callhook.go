package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/checkpointer/client"
	"github.com/lifeboat-dev/lifeboat/checkpointer/hooks"
)

// The hooks' names in results: those of their annotations, without the prefix.
var (
	hookPreCheckpoint = hookName(v1alpha1.AnnotationPreCheckpoint)
	hookPostRestore   = hookName(v1alpha1.AnnotationPostRestore)
	hookStateExport   = hookName(v1alpha1.AnnotationStateExport)
	hookStateImport   = hookName(v1alpha1.AnnotationStateImport)
)

func hookName(annotation string) string {
	_, name, _ := strings.Cut(annotation, "/")
	return name
}

// hookCalls are the hooks that were called for one move.
type hookCalls struct{ results []v1alpha1.HookResult }

// called says whether a hook was called, and did what it is there for.
func (c *hookCalls) called(name string) bool {
	for _, r := range c.results {
		if r.Name == name && r.Succeeded {
			return true
		}
	}
	return false
}

// callHook calls a hook of a pod, if it has that one, and notes what came of it. An
// error says that it failed.
func (a *Agent) callHook(ctx context.Context, pod *corev1.Pod, name string, hook *v1alpha1.Hook, calls *hookCalls) error {
	if hook == nil {
		return nil
	}
	in, err := a.hookContainer(ctx, pod, hook)
	if err != nil {
		return a.noteHook(pod, hooks.Result(name, containerOfHook(pod, hook), "", 0, err), calls)
	}
	return a.noteHook(pod, a.hooks.Call(ctx, name, hook, in), calls)
}

// noteHook keeps the result of a hook. Where it failed the pod's owner is told.
func (a *Agent) noteHook(pod *corev1.Pod, result v1alpha1.HookResult, calls *hookCalls) error {
	calls.results = append(calls.results, result)
	log := a.log.With("pod", pod.Namespace+"/"+pod.Name, "container", result.Container, "hook", result.Name, "seconds", result.Seconds)
	if result.Succeeded {
		log.Info("hook was called")
		return nil
	}
	log.Warn("hook failed", "output", result.Output)
	err := fmt.Errorf("hook %s failed in container %s: %s", result.Name, result.Container, cmp.Or(result.Output, "it says nothing"))
	a.recorder.Event(pod, corev1.EventTypeWarning, "LifeboatHookFailed", err.Error())
	return err
}

// containerOfHook is the name of the container that a hook is called in.
func containerOfHook(pod *corev1.Pod, hook *v1alpha1.Hook) string {
	if hook.Container != "" || len(pod.Spec.Containers) == 0 {
		return hook.Container
	}
	return pod.Spec.Containers[0].Name
}

// hookContainer finds the running container of a pod that a hook is called in.
func (a *Agent) hookContainer(ctx context.Context, pod *corev1.Pod, hook *v1alpha1.Hook) (hooks.Container, error) {
	name := containerOfHook(pod, hook)
	target, err := a.runtime.target(ctx, a.host, pod)
	if err != nil && !errors.Is(err, errNotRunning) {
		return hooks.Container{}, err
	}
	for _, c := range target.Containers {
		if c.Container.Name == name {
			return hooks.Container{Name: name, ID: c.Container.ID, RuncRoot: runcStates, Pid: c.Pid, PodIP: pod.Status.PodIP}, nil
		}
	}
	// One that was just restored runs before containerd knows it.
	id, err := a.containerOf(client.Container{Namespace: pod.Namespace, PodName: pod.Name, PodUID: string(pod.UID)}, name)
	if err != nil {
		return hooks.Container{}, fmt.Errorf("container %q of the pod does not run", name)
	}
	pid, err := initPid(a.host, id)
	return hooks.Container{Name: name, ID: id, RuncRoot: runcStates, Pid: pid, PodIP: pod.Status.PodIP}, err
}

// postRestore calls the hook of a pod of which every container came back from the
// checkpoint. The outcome changes nothing for the restore; it is told.
func (a *Agent) postRestore(ctx context.Context, r *restore, pod *corev1.Pod) {
	protection, err := v1alpha1.ParseAnnotations(pod.Annotations)
	if err != nil || protection.PostRestore == nil {
		return
	}
	calls := &hookCalls{}
	_ = a.callHook(ctx, pod, hookPostRestore, protection.PostRestore, calls)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status.Hooks = append(r.status.Hooks, calls.results...)
	a.reportRestore(ctx, r.migration, *r.status.DeepCopy())
}

// complete says whether every container of the pod has come back from the checkpoint.
// r.mu is held.
func (r *restore) complete() bool {
	for _, c := range r.status.Containers {
		if c.Result != v1alpha1.ResultRestored {
			return false
		}
	}
	return r.opened != nil && len(r.status.Containers) >= max(r.expected, len(r.opened.generation().Containers))
}
