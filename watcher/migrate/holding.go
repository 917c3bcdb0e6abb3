package migrate

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/watcher/endpoints"
	"github.com/lifeboat-dev/lifeboat/watcher/move"
)

// holdingRetry is how soon what could not be done for held connections is tried again.
const holdingRetry = time.Second

// seen is what was seen of a move's EndpointSlices, and since when.
type seen struct {
	shown    endpoints.Shown
	old, new endpoints.State
	since    time.Time
}

// viewHolding gathers what there is to know of connections that are to wait, once it is
// known which steps the move has completed. Where it may not be known, none wait.
func (d *Driver) viewHolding(ctx context.Context, v *move.View) error {
	err := d.lookAtHolding(ctx, v)
	if apierrors.IsForbidden(err) {
		d.Log.Warn("connections are not held; install the present manifests", "migration", v.Migration.Namespace+"/"+v.Migration.Name, "error", err)
		return nil
	}
	return err
}

func (d *Driver) lookAtHolding(ctx context.Context, v *move.View) error {
	m := v.Migration
	begins := d.HoldConnections && move.MayHold(m) && (m.PortsToHold() == nil || m.Reached(v1alpha1.PhaseParked) && m.Reached(v1alpha1.PhasePrepared))
	if !begins && !move.Holds(m) {
		return nil
	}
	var wore map[string]string
	if err := json.Unmarshal([]byte(m.Annotations[v1alpha1.AnnotationPodLabels]), &wore); err != nil {
		return fmt.Errorf("read annotation %s: %w", v1alpha1.AnnotationPodLabels, err)
	}
	all, err := d.slicesOf(ctx, m.Namespace, wore)
	if err != nil {
		return err
	}
	own, err := d.ownSlices(ctx, m)
	if err != nil {
		return err
	}
	h := &move.Holding{Old: endpoints.Of(all, m.LostPod())}
	if m.PortsToHold() == nil {
		h.Ports = endpoints.Ports(all, m.LostPod())
	}
	if claim := m.Status.Claim; claim != nil {
		h.New = endpoints.Of(all, claim.PodUID)
		if restore := m.Status.Restore; restore != nil && restore.PodUID == claim.PodUID {
			h.At = restore.Holding
		}
	}
	h.Shown = endpoints.Show(m, own, all, h.At)
	if begins && meta.FindStatusCondition(m.Status.Conditions, v1alpha1.ConditionHoldingConnections) == nil {
		ports := h.Ports
		if ports == nil {
			ports = m.PortsToHold()
		}
		if h.Obstacle, err = d.obstacle(ctx, v.Pod, wore, ports); err != nil {
			return err
		}
	}
	h.Since = v.Now
	if move.Holds(m) { // and is forgotten when it does not any more
		now := seen{shown: h.Shown, old: h.Old, new: h.New, since: v.Now}
		if before, ok := d.slicesSeen.Load(m.UID); ok && before.(seen).shown == now.shown && before.(seen).old == now.old && before.(seen).new == now.new {
			now = before.(seen)
		}
		d.slicesSeen.Store(m.UID, now)
		h.Since = now.since
	}
	v.Holding = h
	return nil
}

// servicesOf are the Services that select pods with these labels.
func (d *Driver) servicesOf(ctx context.Context, namespace string, wore map[string]string) ([]corev1.Service, error) {
	var list corev1.ServiceList
	if err := d.Reader.List(ctx, &list, client.InNamespace(namespace)); err != nil {
		return nil, fmt.Errorf("list services in %s: %w", namespace, err)
	}
	return slices.DeleteFunc(list.Items, func(service corev1.Service) bool {
		selector := service.Spec.Selector
		return len(selector) == 0 || !labels.SelectorFromSet(selector).Matches(labels.Set(wore))
	}), nil
}

// slicesOf are the EndpointSlices of the Services that select pods with these labels.
func (d *Driver) slicesOf(ctx context.Context, namespace string, wore map[string]string) ([]discoveryv1.EndpointSlice, error) {
	services, err := d.servicesOf(ctx, namespace, wore)
	if err != nil {
		return nil, err
	}
	var all []discoveryv1.EndpointSlice
	for i := range services {
		var list discoveryv1.EndpointSliceList
		if err := d.Reader.List(ctx, &list, client.InNamespace(namespace), client.MatchingLabels{discoveryv1.LabelServiceName: services[i].Name}); err != nil {
			return nil, fmt.Errorf("list endpoint slices of service %s/%s: %w", namespace, services[i].Name, err)
		}
		all = append(all, list.Items...)
	}
	return all, nil
}

func (d *Driver) ownSlices(ctx context.Context, m *v1alpha1.Migration) ([]discoveryv1.EndpointSlice, error) {
	var own discoveryv1.EndpointSliceList
	of := client.MatchingLabels{discoveryv1.LabelManagedBy: endpoints.ManagedBy, endpoints.LabelMigration: string(m.UID)}
	if err := d.Reader.List(ctx, &own, client.InNamespace(m.Namespace), of); err != nil {
		return nil, fmt.Errorf("list the endpoint slices of migration %s/%s: %w", m.Namespace, m.Name, err)
	}
	return own.Items, nil
}

// obstacle is why connections to a pod must not be led to another port of its successor,
// empty where nothing speaks against it.
func (d *Driver) obstacle(ctx context.Context, pod *corev1.Pod, wore map[string]string, ports []int32) (string, error) {
	if pod == nil || pod.Spec.HostNetwork {
		return "the pod has no network of its own", nil
	}
	services, err := d.servicesOf(ctx, pod.Namespace, wore)
	if err != nil {
		return "", err
	}
	for i := range services {
		if why := endpoints.Unheld(&services[i]); why != "" {
			return why, nil
		}
	}
	var policies networkingv1.NetworkPolicyList
	if err := d.Reader.List(ctx, &policies); err != nil {
		return "", fmt.Errorf("list network policies: %w", err)
	}
	return endpoints.Restricted(policies.Items, pod.Namespace, wore, ports), nil
}

// holdStep does a step of a move that is about its connections. Where it fails for good,
// the move goes on without.
func (d *Driver) holdStep(ctx context.Context, v *move.View, step move.Step) (time.Time, error) {
	m := v.Migration
	switch step.Do {
	case move.AskToHold:
		var words []string
		for _, port := range v.Holding.Ports {
			words = append(words, strconv.Itoa(int(port)))
		}
		return again, d.annotate(ctx, m, v1alpha1.AnnotationHoldPorts, strings.Join(words, ","))
	case move.BeginHolding:
		noteHolding(m, metav1.ConditionTrue, v1alpha1.ReasonHolding, "connections to the pod wait where it goes to while it is stopped")
	case move.StopHolding:
		status := metav1.ConditionFalse
		if move.Holds(m) {
			status = metav1.ConditionTrue // until the slices are gone
		}
		noteHolding(m, status, v1alpha1.ReasonNotHeld, step.Message)
	case move.EndHolding:
		return time.Time{}, d.endHolding(ctx, m, step.Reason, step.Message)
	case move.ShowOld, move.ShowNew:
		err := d.show(ctx, m, step.Do)
		if err == nil || apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
			return again, nil
		}
		if m.Reached(v1alpha1.PhaseStopping) || !m.Open() || m.Withdrawing() {
			return time.Time{}, err
		}
		d.Log.Warn("connections are not held", "migration", m.Namespace+"/"+m.Name, "error", err)
		noteHolding(m, metav1.ConditionTrue, v1alpha1.ReasonNotHeld, err.Error())
	}
	return step.Look, nil
}

func noteHolding(m *v1alpha1.Migration, status metav1.ConditionStatus, reason, message string) {
	meta.SetStatusCondition(&m.Status.Conditions, metav1.Condition{
		Type: v1alpha1.ConditionHoldingConnections, Status: status, Reason: reason, Message: cut(message),
	})
}

// show has the own slices of a move lead to its pod, or to where connections wait.
func (d *Driver) show(ctx context.Context, m *v1alpha1.Migration, where move.Do) error {
	own, err := d.ownSlices(ctx, m)
	if err != nil {
		return err
	}
	if where == move.ShowOld && !m.Withdrawing() && m.Open() {
		var wore map[string]string
		if err := json.Unmarshal([]byte(m.Annotations[v1alpha1.AnnotationPodLabels]), &wore); err != nil {
			return fmt.Errorf("read annotation %s: %w", v1alpha1.AnnotationPodLabels, err)
		}
		all, err := d.slicesOf(ctx, m.Namespace, wore)
		if err != nil {
			return err
		}
		copies, err := endpoints.Copies(m, all)
		if err != nil {
			return err
		}
		for _, slice := range copies {
			if err := d.Client.Create(ctx, slice, fieldOwner); err != nil && !apierrors.IsAlreadyExists(err) {
				return fmt.Errorf("create endpoint slice %s/%s: %w", slice.Namespace, slice.Name, err)
			}
		}
	}
	for i := range own {
		next, err := endpoints.ShowOld(&own[i])
		if where == move.ShowNew {
			next, err = endpoints.ShowNew(&own[i], m.Status.Claim, m.Status.Restore.Holding)
		}
		if err != nil {
			return err
		}
		if err := d.Client.Update(ctx, next, fieldOwner); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("update endpoint slice %s/%s: %w", next.Namespace, next.Name, err)
		}
	}
	return nil
}

// endHolding removes the own slices of a move, and notes that they are gone.
func (d *Driver) endHolding(ctx context.Context, m *v1alpha1.Migration, reason, message string) error {
	own, err := d.ownSlices(ctx, m)
	if err != nil {
		return err
	}
	for i := range own {
		if err := d.Client.Delete(ctx, &own[i]); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("delete endpoint slice %s/%s: %w", own[i].Namespace, own[i].Name, err)
		}
	}
	d.slicesSeen.Delete(m.UID)
	noteHolding(m, metav1.ConditionFalse, reason, message)
	return nil
}

// tendHolding does what is next for the connections of a move that has stopped its pod, or
// is being given up. The move does not wait for it: what fails is tried again.
func (d *Driver) tendHolding(ctx context.Context, v *move.View) (look time.Time) {
	step := move.TendHolding(v)
	look, err := step.Look, error(nil)
	if step.Do != move.Wait {
		look, err = d.holdStep(ctx, v, step)
	}
	if err != nil {
		d.Log.Warn("connections that wait are not led on", "migration", v.Migration.Namespace+"/"+v.Migration.Name, "step", step.Do, "error", err)
		look = v.Now.Add(holdingRetry)
	}
	return look
}

// tendClosed does the same for a move that is closed, and returns when to look again, zero
// for never.
func (d *Driver) tendClosed(ctx context.Context, m *v1alpha1.Migration) (time.Time, error) {
	if !m.Planned() || !move.Holds(m) || m.DeletionTimestamp != nil {
		return time.Time{}, nil
	}
	before := m.DeepCopy()
	v := &move.View{Migration: m, Now: time.Now()}
	var err error
	if v.Pod, err = d.movedPod(ctx, m); err == nil {
		err = d.viewSuccessor(ctx, v)
	}
	if err == nil {
		err = d.viewHolding(ctx, v)
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("end what is held for migration %s/%s: %w", m.Namespace, m.Name, err)
	}
	look := d.tendHolding(ctx, v)
	if move.Holds(m) {
		return look, nil
	}
	if err := d.writeStatus(ctx, before, m); apierrors.IsConflict(err) {
		return time.Now().Add(conflictPause), nil
	} else if err != nil {
		return time.Time{}, err
	}
	d.tellHolding(before, m)
	return time.Time{}, nil
}

// tellHolding tells when it has changed whether a move's connections wait.
func (d *Driver) tellHolding(before, m *v1alpha1.Migration) {
	was := meta.FindStatusCondition(before.Status.Conditions, v1alpha1.ConditionHoldingConnections)
	is := meta.FindStatusCondition(m.Status.Conditions, v1alpha1.ConditionHoldingConnections)
	if is == nil || was != nil && was.Reason == is.Reason {
		return
	}
	reason := map[string]string{v1alpha1.ReasonHolding: "ConnectionsHeld", v1alpha1.ReasonNotHeld: "ConnectionsNotHeld", v1alpha1.ReasonReleased: "ConnectionsReleased"}[is.Reason]
	d.Events.Eventf(m, nil, corev1.EventTypeNormal, reason, "Move", "%s", is.Message)
}
