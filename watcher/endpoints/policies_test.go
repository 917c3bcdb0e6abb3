package endpoints

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

// TestRestricted: which policies may let nobody through to where connections wait.
func TestRestricted(t *testing.T) {
	type spec = networkingv1.NetworkPolicySpec
	type types = []networkingv1.PolicyType
	web := metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
	egress := func(ports ...networkingv1.NetworkPolicyPort) spec {
		return spec{PolicyTypes: types{networkingv1.PolicyTypeEgress}, Egress: []networkingv1.NetworkPolicyEgressRule{{}, {Ports: ports}}}
	}
	port := func(p intstr.IntOrString, end int32) networkingv1.NetworkPolicyPort {
		rule := networkingv1.NetworkPolicyPort{Port: &p}
		if end > 0 {
			rule.EndPort = &end
		}
		return rule
	}
	udp := networkingv1.NetworkPolicyPort{Protocol: ptr.To(corev1.ProtocolUDP), Port: ptr.To(intstr.FromInt32(8080))}
	for name, tc := range map[string]struct {
		namespace string
		spec      spec
		want      bool
	}{
		"who may connect to the pod":            {"shop", spec{PodSelector: web}, true},
		"who may connect to every pod":          {"shop", spec{PolicyTypes: types{networkingv1.PolicyTypeIngress}}, true},
		"who may connect to another pod":        {"shop", spec{PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}}}, false},
		"who may connect in another namespace":  {"other", spec{}, false},
		"where the pod may connect to":          {"shop", spec{PodSelector: web, PolicyTypes: types{networkingv1.PolicyTypeEgress}}, false},
		"clients to its port":                   {"other", egress(port(intstr.FromInt32(8080), 0)), true},
		"clients to a range with it":            {"other", egress(port(intstr.FromInt32(8000), 9000)), true},
		"clients to ports with a name":          {"other", egress(port(intstr.FromString("http"), 0)), true},
		"clients to other ports":                {"other", egress(port(intstr.FromInt32(53), 0), port(intstr.FromInt32(8081), 8090)), false},
		"clients to UDP alone":                  {"other", egress(udp), false},
		"clients to all TCP ports":              {"other", egress(networkingv1.NetworkPolicyPort{}), false},
		"clients to all ports":                  {"other", egress(), false},
		"types are not said, rules for clients": {"other", spec{Egress: egress(port(intstr.FromInt32(8080), 0)).Egress}, true},
	} {
		policy := networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: tc.namespace, Name: "p"}, Spec: tc.spec}
		if why := Restricted([]networkingv1.NetworkPolicy{policy}, "shop", map[string]string{"app": "web"}, []int32{8080, 9090}); (why != "") != tc.want {
			t.Errorf("%s: %q", name, why)
		}
	}
}

// TestUnheld: a Service some of whose clients cannot wait.
func TestUnheld(t *testing.T) {
	tcp, udp := corev1.ServicePort{Protocol: corev1.ProtocolTCP}, corev1.ServicePort{Protocol: corev1.ProtocolUDP}
	for name, tc := range map[string]struct {
		spec corev1.ServiceSpec
		want bool
	}{
		"its address, TCP": {corev1.ServiceSpec{ClusterIP: "10.96.0.7", Ports: []corev1.ServicePort{tcp, tcp}}, false},
		"UDP, too":         {corev1.ServiceSpec{ClusterIP: "10.96.0.7", Ports: []corev1.ServicePort{tcp, udp}}, true},
		"headless":         {corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone, Ports: []corev1.ServicePort{tcp}}, true},
	} {
		if why := Unheld(&corev1.Service{Spec: tc.spec}); (why != "") != tc.want {
			t.Errorf("%s: %q", name, why)
		}
	}
}
