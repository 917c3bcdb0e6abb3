// Package endpoints knows the EndpointSlices by which connections are led to where they
// wait for a pod that is being moved: Lifeboat's own, one for each slice of Kubernetes'
// that has the pod. It does nothing itself.
package endpoints

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

const (
	// ManagedBy is the value of the label that says whose an EndpointSlice is.
	ManagedBy = "lifeboat.dev"
	// LabelMigration has, on Lifeboat's own slices, the UID of the Migration that they are of.
	LabelMigration = "lifeboat.dev/migration"
	// annotationOld has, on Lifeboat's own slices, the old pod's endpoint and ports as JSON.
	annotationOld = "lifeboat.dev/moved-endpoint"
	// managedByKubernetes is the label's value on slices that follow a Service's selector.
	managedByKubernetes = "endpointslice-controller.k8s.io"
)

// old is the moved pod's part of a slice of Kubernetes'.
type old struct {
	Endpoint discoveryv1.Endpoint       `json:"endpoint"`
	Ports    []discoveryv1.EndpointPort `json:"ports"`
}

// State is how slices of Kubernetes' show a pod.
type State int

// The states, from none to all.
const (
	Missing State = iota // none of them has it
	Unready              // one has it, and does not say that it is ready
	Ready                // those that have it say that it is ready
)

// Of is how slices of Kubernetes' show a pod.
func Of(all []discoveryv1.EndpointSlice, pod types.UID) State {
	state := Missing
	for i := range all {
		endpoint := find(&all[i], pod)
		switch {
		case endpoint == nil:
		case !ready(endpoint):
			return Unready
		default:
			state = Ready
		}
	}
	return state
}

// find is a pod's endpoint in a slice that leads to it from a Service's own address, nil
// where the slice has none or is another kind.
func find(slice *discoveryv1.EndpointSlice, pod types.UID) *discoveryv1.Endpoint {
	_, headless := slice.Labels[corev1.IsHeadlessService]
	if slice.Labels[discoveryv1.LabelManagedBy] != managedByKubernetes || headless || slice.AddressType == discoveryv1.AddressTypeFQDN || len(tcp(slice.Ports)) == 0 {
		return nil
	}
	for i := range slice.Endpoints {
		if ref := slice.Endpoints[i].TargetRef; ref != nil && ref.UID == pod {
			return &slice.Endpoints[i]
		}
	}
	return nil
}

func ready(endpoint *discoveryv1.Endpoint) bool {
	c := endpoint.Conditions
	return ptr.Deref(c.Ready, true) && !ptr.Deref(c.Terminating, false)
}

// tcp are those ports that are held: TCP ones with a number.
func tcp(ports []discoveryv1.EndpointPort) []discoveryv1.EndpointPort {
	var held []discoveryv1.EndpointPort
	for _, port := range ports {
		if port.Port != nil && ptr.Deref(port.Protocol, corev1.ProtocolTCP) == corev1.ProtocolTCP {
			held = append(held, port)
		}
	}
	return held
}

// Ports are the pod's TCP ports to which slices of Kubernetes' lead, sorted.
func Ports(all []discoveryv1.EndpointSlice, pod types.UID) []int32 {
	var ports []int32
	for i := range all {
		if find(&all[i], pod) == nil {
			continue
		}
		for _, port := range tcp(all[i].Ports) {
			ports = append(ports, *port.Port)
		}
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}

// Copies are the own slices that a Migration needs: of each slice of Kubernetes' that has
// the moved pod, with the pod's endpoint as it is there.
func Copies(m *v1alpha1.Migration, all []discoveryv1.EndpointSlice) ([]*discoveryv1.EndpointSlice, error) {
	var copies []*discoveryv1.EndpointSlice
	for i := range all {
		native := &all[i]
		endpoint := find(native, m.LostPod())
		if endpoint == nil {
			continue
		}
		as := old{Endpoint: *endpoint.DeepCopy(), Ports: tcp(native.Ports)}
		noted, err := json.Marshal(as)
		if err != nil {
			return nil, fmt.Errorf("note the endpoint of pod %s: %w", m.Spec.Pod.Name, err)
		}
		service := native.Labels[discoveryv1.LabelServiceName]
		copies = append(copies, &discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: m.Namespace, Name: nameOf(m, service, native.AddressType),
				Labels: map[string]string{
					discoveryv1.LabelServiceName: service, discoveryv1.LabelManagedBy: ManagedBy, LabelMigration: string(m.UID),
				},
				Annotations: map[string]string{annotationOld: string(noted)},
				OwnerReferences: []metav1.OwnerReference{{
					APIVersion: v1alpha1.GroupVersion.String(), Kind: "Migration", Name: m.Name, UID: m.UID,
				}},
			},
			AddressType: native.AddressType, Endpoints: []discoveryv1.Endpoint{as.Endpoint}, Ports: as.Ports,
		})
	}
	return copies, nil
}

// nameOf is the name of the one own slice of a Migration for a Service and kind of address.
func nameOf(m *v1alpha1.Migration, service string, kind discoveryv1.AddressType) string {
	sum := fnv.New32a()
	fmt.Fprintf(sum, "%s %s", m.UID, kind)
	return fmt.Sprintf("%s-lifeboat-%08x", service, sum.Sum32())
}

// ShowOld is an own slice as it leads to the moved pod.
func ShowOld(own *discoveryv1.EndpointSlice) (*discoveryv1.EndpointSlice, error) {
	as, err := noted(own)
	if err != nil {
		return nil, err
	}
	next := own.DeepCopy()
	next.Endpoints, next.Ports = []discoveryv1.Endpoint{as.Endpoint}, as.Ports
	return next, nil
}

// ShowNew is an own slice as it leads to where connections wait for the claim's pod.
func ShowNew(own *discoveryv1.EndpointSlice, claim *v1alpha1.Claim, at *v1alpha1.Holding) (*discoveryv1.EndpointSlice, error) {
	as, err := noted(own)
	if err != nil {
		return nil, err
	}
	if claim == nil || at == nil {
		return nil, fmt.Errorf("nobody holds connections for endpoint slice %s", own.Name)
	}
	address, err := addressOf(at.PodIPs, own.AddressType)
	if err != nil {
		return nil, err
	}
	next := own.DeepCopy()
	next.Endpoints = []discoveryv1.Endpoint{{
		Addresses:  []string{address},
		Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true), Serving: ptr.To(true), Terminating: ptr.To(false)},
		NodeName:   ptr.To(claim.NodeName),
		TargetRef:  &corev1.ObjectReference{Kind: "Pod", Namespace: own.Namespace, Name: claim.PodName, UID: claim.PodUID},
	}}
	next.Ports = nil
	for _, port := range as.Ports {
		held := at.At(*port.Port)
		if held <= 0 {
			return nil, fmt.Errorf("no connections to port %d are held", *port.Port)
		}
		port.Port = ptr.To(held)
		next.Ports = append(next.Ports, port)
	}
	return next, nil
}

// addressOf is the first of a pod's addresses that is of a kind. What could not be a
// pod's is refused: a slice leads everybody there.
func addressOf(ips []string, kind discoveryv1.AddressType) (string, error) {
	for _, ip := range ips {
		address, err := netip.ParseAddr(ip)
		if err != nil || !address.IsGlobalUnicast() {
			return "", fmt.Errorf("%q is no pod's address", ip)
		}
		if address.Is4() == (kind == discoveryv1.AddressTypeIPv4) {
			return ip, nil
		}
	}
	return "", fmt.Errorf("of the pod's addresses %v none is %s", ips, kind)
}

func noted(own *discoveryv1.EndpointSlice) (old, error) {
	var as old
	if err := json.Unmarshal([]byte(own.Annotations[annotationOld]), &as); err != nil {
		return as, fmt.Errorf("read annotation %s of endpoint slice %s: %w", annotationOld, own.Name, err)
	}
	return as, nil
}

// Shown is where own slices lead.
type Shown string

// Where own slices may lead.
const (
	ShowsNothing Shown = ""      // there are none, or less than needed
	ShowsOld     Shown = "Old"   // to the moved pod
	ShowsNew     Shown = "New"   // to where connections wait for its successor
	ShowsMixed   Shown = "Mixed" // to one or the other, or to where they waited before
)

// Show says where the own slices of a Migration lead. All are those of Kubernetes'.
func Show(m *v1alpha1.Migration, own, all []discoveryv1.EndpointSlice, at *v1alpha1.Holding) Shown {
	there := map[string]bool{}
	oldOnes, newOnes := 0, 0
	for i := range own {
		slice := &own[i]
		there[slice.Name] = true
		if as, err := ShowOld(slice); err == nil && same(slice, as) {
			oldOnes++
		} else if as, err := ShowNew(slice, m.Status.Claim, at); err == nil && same(slice, as) {
			newOnes++
		}
	}
	for i := range all {
		if native := &all[i]; find(native, m.LostPod()) != nil && !there[nameOf(m, native.Labels[discoveryv1.LabelServiceName], native.AddressType)] {
			return ShowsNothing
		}
	}
	switch len(own) {
	case 0:
		return ShowsNothing
	case oldOnes:
		return ShowsOld
	case newOnes:
		return ShowsNew
	}
	return ShowsMixed
}

func same(a, b *discoveryv1.EndpointSlice) bool {
	return equality.Semantic.DeepEqual(a.Endpoints, b.Endpoints) && equality.Semantic.DeepEqual(a.Ports, b.Ports)
}
