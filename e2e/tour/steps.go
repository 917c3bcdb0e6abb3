package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/e2e/cart/workload"
	"github.com/lifeboat-dev/lifeboat/e2e/observe"
)

// program is kubectl-lifeboat, and what it has printed for each block of the document.
type program struct {
	path, kubeconfig string
	api              client.Client
	blocks           map[string]string
}

// show runs a command as a reader would, and keeps what it prints in a block. It is an
// error when the command does not end with status 0.
func (p *program) show(ctx context.Context, block string, arguments ...string) error {
	cmd := exec.CommandContext(ctx, p.path, arguments...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+p.kubeconfig)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	p.blocks[block] += "$ kubectl lifeboat " + strings.Join(arguments, " ") + "\n" + out.String() + errs.String()
	if err != nil {
		return fmt.Errorf("%w:\n%s", err, p.blocks[block])
	}
	return nil
}

// read returns what a command prints, for the next step.
func (p *program) read(ctx context.Context, arguments ...string) (string, error) {
	cmd := exec.CommandContext(ctx, p.path, arguments...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+p.kubeconfig)
	out, err := cmd.Output()
	return strings.TrimSpace(string(out)), err
}

// steps are the tour, in their order.
var steps = []struct {
	name string
	run  func(context.Context, *program) error
}{
	{"status", func(ctx context.Context, p *program) error { return p.show(ctx, "status", "status", "-A") }},
	{"checkpoints", func(ctx context.Context, p *program) error {
		return p.show(ctx, "checkpoints", "checkpoints", "-n", namespace, "-o", "wide")
	}},
	{"checkpoint", func(ctx context.Context, p *program) error {
		return p.show(ctx, "checkpoint", "checkpoint", "cart-0", "-n", namespace)
	}},
	{"migrate", func(ctx context.Context, p *program) error {
		return p.show(ctx, "migrate", "migrate", "cart-0", "-n", namespace)
	}},
	{"migrations", func(ctx context.Context, p *program) error {
		return p.show(ctx, "migrations", "migrations", "-n", namespace)
	}},
	{"describe-migration", func(ctx context.Context, p *program) error {
		names, err := p.read(ctx, "migrations", "-n", namespace, "-o", "name")
		if err != nil || names == "" {
			return errors.Join(errors.New("there is no migration to describe"), err)
		}
		_, name, _ := strings.Cut(names[strings.LastIndex(names, "\n")+1:], "/")
		return p.show(ctx, "describe-migration", "describe", "migration", name, "-n", namespace)
	}},
	{"describe-pod", func(ctx context.Context, p *program) error {
		pod, err := observe.ReadyPod(ctx, p.api, namespace, workload.Labels)
		if err != nil {
			return err
		}
		if _, err := observe.Durable(ctx, p.api, pod, 1); err != nil {
			return err
		}
		return p.show(ctx, "describe-pod", "describe", "pod", "cart-0", "-n", namespace)
	}},
	{"cancel", cancel},
	{"drain", drain},
}

// cancel asks for a move that has to wait, and gives it up.
func cancel(ctx context.Context, p *program) error {
	one := intstr.FromInt32(1)
	budget := &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "cart"},
		Spec:       policyv1.PodDisruptionBudgetSpec{MinAvailable: &one, Selector: &metav1.LabelSelector{MatchLabels: workload.Labels}},
	}
	if err := p.api.Create(ctx, budget); err != nil {
		return err
	}
	err := observe.Until(ctx, "the budget is counted", func(ctx context.Context) (bool, string, error) {
		err := p.api.Get(ctx, client.ObjectKeyFromObject(budget), budget)
		return budget.Status.ExpectedPods > 0, "not yet", err
	})
	if err == nil {
		err = p.show(ctx, "cancel", "migrate", "cart-0", "-n", namespace, "--wait=false")
	}
	if err == nil {
		err = observe.Until(ctx, "the move waits", func(ctx context.Context) (bool, string, error) {
			seen, err := p.read(ctx, "migrations", "-n", namespace, "--open", "--no-headers")
			return strings.Contains(seen, "Held"), seen, err
		})
	}
	if err == nil {
		err = p.show(ctx, "cancel", "migrations", "-n", namespace, "--open")
	}
	if err == nil {
		err = p.show(ctx, "cancel", "cancel", "cart-0", "-n", namespace)
	}
	return errors.Join(err, p.api.Delete(ctx, budget))
}

// drain drains the cart's node, and gives the node back.
func drain(ctx context.Context, p *program) error {
	pod, err := observe.ReadyPod(ctx, p.api, namespace, workload.Labels)
	if err != nil {
		return err
	}
	err = p.show(ctx, "drain", "drain", pod.Spec.NodeName)
	node := &corev1.Node{}
	if err := p.api.Get(ctx, client.ObjectKey{Name: pod.Spec.NodeName}, node); err != nil {
		return err
	}
	before := node.DeepCopy()
	node.Spec.Unschedulable = false
	return errors.Join(err, p.api.Patch(ctx, node, client.MergeFrom(before)))
}
