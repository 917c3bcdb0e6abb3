package endpoints

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

func migration() *v1alpha1.Migration {
	m := &v1alpha1.Migration{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-1-2", UID: "m"}}
	m.Spec.Pod = v1alpha1.PodIdentity{Name: "web-1", UID: "old"}
	m.Status.Claim = &v1alpha1.Claim{PodName: "web-2", PodUID: "new", NodeName: "b"}
	return m
}

// native is a slice of Kubernetes' with the old pod, and a sibling of it.
func native(service string, changes ...func(*discoveryv1.EndpointSlice)) discoveryv1.EndpointSlice {
	endpoint := func(uid types.UID, ip string) discoveryv1.Endpoint {
		return discoveryv1.Endpoint{Addresses: []string{ip}, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true)}, NodeName: ptr.To("a"),
			Zone: ptr.To("z"), TargetRef: &corev1.ObjectReference{Kind: "Pod", UID: uid}}
	}
	slice := discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: service + "-x7k2p",
			Labels: map[string]string{discoveryv1.LabelServiceName: service, discoveryv1.LabelManagedBy: managedByKubernetes}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints:   []discoveryv1.Endpoint{endpoint("sibling", "10.0.0.4"), endpoint("old", "10.0.0.5")},
		Ports: []discoveryv1.EndpointPort{
			{Name: ptr.To("http"), Protocol: ptr.To(corev1.ProtocolTCP), Port: ptr.To[int32](8080), AppProtocol: ptr.To("http")},
			{Name: ptr.To("dns"), Protocol: ptr.To(corev1.ProtocolUDP), Port: ptr.To[int32](53)},
			{Name: ptr.To("admin"), Port: ptr.To[int32](9090)},
		},
	}
	for _, change := range changes {
		change(&slice)
	}
	return slice
}

func headless(s *discoveryv1.EndpointSlice)  { s.Labels[corev1.IsHeadlessService] = "" }
func byOthers(s *discoveryv1.EndpointSlice)  { s.Labels[discoveryv1.LabelManagedBy] = "mesh.example" }
func udpOnly(s *discoveryv1.EndpointSlice)   { s.Ports = s.Ports[1:2] }
func without(s *discoveryv1.EndpointSlice)   { s.Endpoints = s.Endpoints[:1] }
func unready(s *discoveryv1.EndpointSlice)   { s.Endpoints[1].Conditions.Ready = ptr.To(false) }
func unsaid(s *discoveryv1.EndpointSlice)    { s.Endpoints[1].Conditions.Ready = nil }
func ending(s *discoveryv1.EndpointSlice)    { s.Endpoints[1].Conditions.Terminating = ptr.To(true) }
func sixth(s *discoveryv1.EndpointSlice)     { s.AddressType = discoveryv1.AddressTypeIPv6 }
func otherPort(s *discoveryv1.EndpointSlice) { s.Ports[0].Port = ptr.To[int32](80) }

// TestOf: what other parts of the cluster see of a pod.
func TestOf(t *testing.T) {
	type natives = []discoveryv1.EndpointSlice
	for name, tc := range map[string]struct {
		all   natives
		want  State
		ports []int32
	}{
		"no slice":                     {nil, Missing, nil},
		"there":                        {natives{native("web")}, Ready, []int32{8080, 9090}},
		"there, readiness is not said": {natives{native("web", unsaid)}, Ready, []int32{8080, 9090}},
		"by two services":              {natives{native("web"), native("api", otherPort)}, Ready, []int32{80, 8080, 9090}},
		"another pod":                  {natives{native("web", without)}, Missing, nil},
		"not ready":                    {natives{native("web", unready)}, Unready, []int32{8080, 9090}},
		"not ready in one":             {natives{native("web", unready), native("api")}, Unready, []int32{8080, 9090}},
		"ending":                       {natives{native("web", ending)}, Unready, []int32{8080, 9090}},
		"headless":                     {natives{native("web", headless)}, Missing, nil},
		"made by somebody else":        {natives{native("web", byOthers)}, Missing, nil},
		"UDP alone":                    {natives{native("web", udpOnly)}, Missing, nil},
	} {
		if got := Of(tc.all, "old"); got != tc.want {
			t.Errorf("%s: state %d, want %d", name, got, tc.want)
		}
		if diff := cmp.Diff(tc.ports, Ports(tc.all, "old")); diff != "" {
			t.Errorf("%s: ports (-want +got):\n%s", name, diff)
		}
	}
}

// TestShow goes the way of the own slices: as the old pod's, to where its successor's
// connections wait, there to other ports, and back.
func TestShow(t *testing.T) {
	m := migration()
	all := []discoveryv1.EndpointSlice{native("web"), native("web", sixth), native("api"), native("other", without)}
	at := &v1alpha1.Holding{PodIPs: []string{"10.0.1.9", "fd00::9"}, Ports: []v1alpha1.HoldPort{{Port: 8080, HoldPort: 61001}, {Port: 9090, HoldPort: 61002}}}
	copies, err := Copies(m, all)
	if err != nil || len(copies) != 3 {
		t.Fatalf("%d slices: %v", len(copies), err)
	}
	shown := func(want Shown, own []discoveryv1.EndpointSlice) {
		t.Helper()
		if got := Show(m, own, all, at); got != want {
			t.Errorf("they show %q, want %q", got, want)
		}
	}
	var own []discoveryv1.EndpointSlice
	names := map[string]bool{}
	for _, c := range copies {
		own, names[c.Name] = append(own, *c), true
	}
	if len(names) != 3 {
		t.Errorf("names %v", names)
	}
	first := own[0]
	if len(first.Ports) != 2 || first.Labels[discoveryv1.LabelServiceName] != "web" || len(first.OwnerReferences) != 1 || first.OwnerReferences[0].UID != "m" ||
		cmp.Diff(all[0].Endpoints[1:], first.Endpoints) != "" {
		t.Errorf("the first is %+v", first)
	}
	if len(Ports(own, "old")) != 0 || Of(own, "old") != Missing {
		t.Error("own slices are taken for Kubernetes'")
	}
	shown(ShowsNothing, nil)
	shown(ShowsNothing, own[:2])
	shown(ShowsOld, own)
	to := func(slice discoveryv1.EndpointSlice) discoveryv1.EndpointSlice {
		t.Helper()
		next, err := ShowNew(&slice, m.Status.Claim, at)
		if err != nil {
			t.Fatal(err)
		}
		return *next
	}
	shown(ShowsMixed, []discoveryv1.EndpointSlice{to(own[0]), own[1], own[2]})
	moved := []discoveryv1.EndpointSlice{to(own[0]), to(own[1]), to(own[2])}
	shown(ShowsNew, moved)
	endpoint := moved[0].Endpoints[0]
	if endpoint.Addresses[0] != "10.0.1.9" || *endpoint.NodeName != "b" || endpoint.TargetRef.UID != "new" || !*endpoint.Conditions.Ready ||
		moved[1].Endpoints[0].Addresses[0] != "fd00::9" {
		t.Errorf("they lead to %+v", endpoint)
	}
	if p := moved[0].Ports; *p[0].Port != 61001 || *p[1].Port != 61002 || *p[0].Name != "http" || *p[1].Name != "admin" {
		t.Errorf("by ports %+v", p)
	}
	all = []discoveryv1.EndpointSlice{native("web", without)} // as Kubernetes' are by then
	shown(ShowsNew, moved)
	at.Ports[0].HoldPort = 62000
	shown(ShowsMixed, moved)
	back, err := ShowOld(&moved[0])
	if err != nil || cmp.Diff(own[0], *back) != "" {
		t.Errorf("%v; the way back (-want +got):\n%s", err, cmp.Diff(own[0], *back))
	}
	// Nobody is led to where nobody waits for him.
	for name, wrong := range map[string]*v1alpha1.Holding{
		"nowhere":           nil,
		"a port less":       {PodIPs: at.PodIPs, Ports: at.Ports[:1]},
		"no address":        {Ports: at.Ports},
		"the other kind's":  {PodIPs: []string{"fd00::9"}, Ports: at.Ports},
		"the node itself":   {PodIPs: []string{"127.0.0.1"}, Ports: at.Ports},
		"no address at all": {PodIPs: []string{"localhost"}, Ports: at.Ports},
	} {
		if next, err := ShowNew(&own[0], m.Status.Claim, wrong); err == nil {
			t.Errorf("%s: they lead to %+v", name, next.Endpoints)
		}
	}
}
