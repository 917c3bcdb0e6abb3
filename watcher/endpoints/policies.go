package endpoints

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

// Unheld is why a Service's clients would be without the pod for longer if those of other
// Services waited for it, empty where they can wait, too.
func Unheld(service *corev1.Service) string {
	switch {
	case service.Spec.ClusterIP == corev1.ClusterIPNone:
		return fmt.Sprintf("Service %s is headless: its clients, which cannot wait, would be without the pod for longer", service.Name)
	case slices.ContainsFunc(service.Spec.Ports, func(p corev1.ServicePort) bool { return p.Protocol != corev1.ProtocolTCP }):
		return fmt.Sprintf("Service %s has a port that is not TCP: who uses that cannot wait, and would be without the pod for longer", service.Name)
	}
	return ""
}

// Restricted is which NetworkPolicy, of all in the cluster, may allow connections to the
// ports of a pod and none to another port of it, in words; empty where none does.
func Restricted(policies []networkingv1.NetworkPolicy, namespace string, wore map[string]string, ports []int32) string {
	for i := range policies {
		policy := &policies[i]
		if of(policy, networkingv1.PolicyTypeIngress) && policy.Namespace == namespace {
			selector, err := metav1.LabelSelectorAsSelector(&policy.Spec.PodSelector)
			if err != nil || selector.Matches(labels.Set(wore)) {
				return fmt.Sprintf("NetworkPolicy %s says who may connect to the pod, and it may be to its own ports alone; connections that wait come by another one", policy.Name)
			}
		}
		if !of(policy, networkingv1.PolicyTypeEgress) {
			continue
		}
		for _, rule := range policy.Spec.Egress {
			if slices.ContainsFunc(rule.Ports, func(p networkingv1.NetworkPolicyPort) bool { return allows(p, ports) }) {
				return fmt.Sprintf("NetworkPolicy %s/%s lets its pods connect to some ports alone, and those of the pod may be meant; connections that wait come by another one",
					policy.Namespace, policy.Name)
			}
		}
	}
	return ""
}

// of says whether a policy is about one way. One that does not say it is about what comes
// in, and about what goes out where it has rules for that.
func of(policy *networkingv1.NetworkPolicy, way networkingv1.PolicyType) bool {
	if types := policy.Spec.PolicyTypes; len(types) > 0 {
		return slices.Contains(types, way)
	}
	return way == networkingv1.PolicyTypeIngress || len(policy.Spec.Egress) > 0
}

// allows says whether a rule's port may be one of these.
func allows(rule networkingv1.NetworkPolicyPort, ports []int32) bool {
	if ptr.Deref(rule.Protocol, corev1.ProtocolTCP) != corev1.ProtocolTCP {
		return false
	}
	switch {
	case rule.Port == nil:
		return false // all of them
	case rule.Port.Type == intstr.String:
		return true // which one it is, the pod says
	}
	first := rule.Port.IntVal
	last := ptr.Deref(rule.EndPort, first)
	return slices.ContainsFunc(ports, func(port int32) bool { return first <= port && port <= last })
}
