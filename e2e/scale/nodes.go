package main

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
)

// zones is how many failure domains the nodes lie in.
const zones = 3

func nodeName(i int) string { return fmt.Sprintf("node-%04d", i) }

func bootID(node string) string { return "boot-of-" + node }

// newNode is a Node as its kubelet keeps it. It has no address: nobody is there.
func newNode(i int) *corev1.Node {
	name := nodeName(i)
	room := corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("32"), corev1.ResourceMemory: resource.MustParse("128Gi"),
		corev1.ResourceEphemeralStorage: resource.MustParse("500Gi"), corev1.ResourcePods: resource.MustParse("110"),
	}
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
			corev1.LabelHostname: name, corev1.LabelArchStable: "amd64", corev1.LabelOSStable: "linux",
			corev1.LabelInstanceTypeStable: "large", corev1.LabelTopologyRegion: "region",
			corev1.LabelTopologyZone: fmt.Sprintf("zone-%d", i%zones),
		}},
		Status: corev1.NodeStatus{
			Capacity: room, Allocatable: room,
			Addresses: []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: name}},
			NodeInfo: corev1.NodeSystemInfo{
				BootID: bootID(name), MachineID: "machine-of-" + name, KernelVersion: "6.12.1-amd64", OSImage: "Debian GNU/Linux 13 (trixie)",
				ContainerRuntimeVersion: "containerd://2.1.4", KubeletVersion: "v1.35.4", OperatingSystem: "linux", Architecture: "amd64",
			},
		},
	}
	node.Status.DaemonEndpoints.KubeletEndpoint.Port = 10250
	for kind, status := range map[corev1.NodeConditionType]corev1.ConditionStatus{
		corev1.NodeMemoryPressure: corev1.ConditionFalse, corev1.NodeDiskPressure: corev1.ConditionFalse,
		corev1.NodePIDPressure: corev1.ConditionFalse, corev1.NodeReady: corev1.ConditionTrue,
	} {
		node.Status.Conditions = append(node.Status.Conditions, corev1.NodeCondition{
			Type: kind, Status: status, Reason: "Kubelet" + string(kind), Message: "kubelet has " + string(kind),
			LastHeartbeatTime: metav1.Now(), LastTransitionTime: metav1.Now(),
		})
	}
	for n := range 20 { // a kubelet names up to fifty
		image := fmt.Sprintf("registry.example/team/program-%d", n)
		node.Status.Images = append(node.Status.Images, corev1.ContainerImage{
			Names: []string{image + "@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", image + ":v1"}, SizeBytes: 100 << 20,
		})
	}
	return node
}

// cpuFeatures are as many as CRIU compares on a server of today, by their number.
var cpuFeatures = []string{
	"adx", "aes", "amx_bf16", "amx_int8", "amx_tile", "apic", "avx", "avx2", "avx512_bf16", "avx512_bitalg", "avx512_fp16", "avx512_vbmi2",
	"avx512_vnni", "avx512_vpopcntdq", "avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512ifma", "avx512vbmi", "avx512vl", "avx_vnni",
	"bmi1", "bmi2", "clflush", "clflushopt", "clwb", "cmov", "cx16", "cx8", "erms", "f16c", "fma", "fsgsbase", "fxsr", "gfni", "invpcid",
	"lahf_lm", "mmx", "movbe", "movdir64b", "movdiri", "pclmulqdq", "pku", "popcnt", "rdpid", "rdrand", "rdseed", "rdtscp", "serialize",
	"sha_ni", "smap", "smep", "sse", "sse2", "sse4_1", "sse4_2", "ssse3", "tsc", "umip", "vaes", "vpclmulqdq", "wbnoinvd", "xsave",
	"xsavec", "xsaveopt",
}

// newFence is the fence record of a node on which a checkpointer runs.
func newFence(i int, peerAddress string) *v1alpha1.Fence {
	name, changed := nodeName(i), metav1.NowMicro()
	return &v1alpha1.Fence{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       v1alpha1.FenceSpec{State: v1alpha1.FenceRunning, Epoch: 1, BootID: bootID(name), ChangedAt: &changed},
		Status: v1alpha1.FenceStatus{Facts: v1alpha1.NodeFacts{
			Architecture: "amd64", KernelVersion: "6.12.1-amd64", CRIUVersion: "4.2.1", RuncVersion: "1.1.15",
			CPUFeatures: cpuFeatures, PeerAddress: peerAddress, RuntimeHandlers: []string{"runc", v1alpha1.RuntimeHandler},
		}},
	}
}

// createNodes makes the nodes of a cluster. The function says where the peer protocol
// of a node is served.
func (p *plane) createNodes(ctx context.Context, n int, peerAddress func(i int) string) error {
	return each(ctx, n, func(ctx context.Context, i int) error {
		if err := p.Create(ctx, newNode(i)); err != nil {
			return err
		}
		return p.createWhole(ctx, newFence(i, peerAddress(i)))
	})
}
