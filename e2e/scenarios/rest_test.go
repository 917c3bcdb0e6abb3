package scenarios

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/lifeboat-dev/lifeboat/api/v1alpha1"
	"github.com/lifeboat-dev/lifeboat/e2e/cart/workload"
	"github.com/lifeboat-dev/lifeboat/e2e/deploy"
	"github.com/lifeboat-dev/lifeboat/e2e/image"
	"github.com/lifeboat-dev/lifeboat/e2e/observe"
)

const curlImage = "lifeboat.dev/curl:dev"

// curls is a script of requests. After each it prints the name of the request, the
// status of the answer and, in one line, its body.
const curls = `
host=lifeboat-watcher.lifeboat-system.svc api=https://$host:8443/api/v1/namespaces/$NAMESPACE
ask() {
	name=$1; shift
	status=$(curl -sS --max-time 100 --cacert /authority/ca.crt --resolve $host:8443:$ADDRESS -o /tmp/body -w '%{http_code}' "$@" 2>&1)
	echo "$name $status $(tr '\n' ' ' </tmp/body)"; : >/tmp/body
}
token="Authorization: Bearer $(cat /var/run/secrets/kubernetes.io/serviceaccount/token)"
ask nobody $api/pods/cart-0
ask forged -H 'Authorization: Bearer forged' $api/pods/cart-0
ask pod -H "$token" $api/pods/cart-0
ask elsewhere -H "$token" https://$host:8443/api/v1/namespaces/default/pods/cart-0
ask checkpoint -H "$token" -X POST "$api/pods/cart-0/checkpoint?wait=60"
ask clone -H "$token" --json '{}' $api/pods/cart-0/clones
ask wrong -H "$token" --json '{"pod": "cart-0", "strategy": "Fast"}' $api/migrations
ask move -H "$token" -H 'Idempotency-Key: one' --json '{"pod": "cart-0", "strategy": "Warm"}' $api/migrations
ask again -H "$token" -H 'Idempotency-Key: one' --json '{"pod": "cart-0", "strategy": "Warm"}' $api/migrations
ask events -H "$token" -N $api/migrations/cart-0-1/events
ask moved -H "$token" $api/migrations/cart-0-1
ask late -H "$token" -X DELETE $api/migrations/cart-0-1
`

// TestRESTWithCurl asks the REST API with curl, from pods with tokens of ServiceAccounts:
// one that may move pods of its namespace, and one that may nothing.
func TestRESTWithCurl(t *testing.T) {
	namespace := scene(t, "rest")
	shop := fillShop(t, namespace, workload.StatefulSet(namespace))
	loadCurl(t)
	pod, err := observe.ReadyPod(deadline(t), api, namespace, workload.Labels)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := observe.Durable(deadline(t), api, pod, 1); err != nil {
		t.Fatal(err)
	}
	before, err := shop.At(pod).Snapshot(deadline(t))
	if err != nil {
		t.Fatal(err)
	}
	create(t, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "mover"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "lifeboat-edit"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: "mover"}},
	}, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "authority"},
		BinaryData: map[string][]byte{"ca.crt": authority(t)},
	})

	stranger := runCurl(t, namespace, "stranger")
	for name, want := range map[string]string{
		"nobody": "401", "forged": "401", "pod": "403", "elsewhere": "403", "checkpoint": "403", "clone": "403", "move": "403", "again": "403", "events": "403", "moved": "403", "late": "403",
	} {
		var problem struct{ Reason, Detail, Hint string }
		if got := stranger[name]; got.status != want || json.Unmarshal([]byte(got.body), &problem) != nil || problem.Detail == "" || problem.Hint == "" {
			t.Errorf("a stranger's request %q is answered with %s: %s; want %s and a problem", name, got.status, got.body, want)
		}
	}

	mover := runCurl(t, namespace, "mover")
	for name, want := range map[string][2]string{
		"nobody": {"401", "Unauthenticated"}, "forged": {"401", "Unauthenticated"}, "elsewhere": {"403", "Forbidden"}, "clone": {"403", "may not create pods"},
		"pod": {"200", `"holders":`}, "checkpoint": {"200", `"done":true`}, "wrong": {"422", "body.strategy"},
		"move": {"201", `"name":"cart-0-1"`}, "again": {"200", `"name":"cart-0-1"`},
		"events": {"200", "event: end"}, "moved": {"200", `"result":"Restored"`}, "late": {"409", "Closed"},
	} {
		if got := mover[name]; got.status != want[0] || !strings.Contains(got.body, want[1]) {
			t.Errorf("the mover's request %q is answered with %s: %s; want %s and %s", name, got.status, got.body, want[0], want[1])
		}
	}
	now, err := observe.ReadyPod(deadline(t), api, namespace, workload.Labels)
	if err != nil {
		t.Fatal(err)
	}
	after, err := shop.At(now).Snapshot(deadline(t))
	if err != nil {
		t.Fatal(err)
	}
	if now.Spec.NodeName == pod.Spec.NodeName || after.Birth != before.Birth || after.Checksum != before.Checksum {
		t.Errorf("the cart is on node %s, born as %s, with checksum %s; it was on %s, %s and %s",
			now.Spec.NodeName, after.Birth, after.Checksum, pod.Spec.NodeName, before.Birth, before.Checksum)
	}
}

// answer is what came of one request of the script.
type answer struct{ status, body string }

// runCurl runs the script in a pod of a ServiceAccount, and returns the answers.
func runCurl(t *testing.T, namespace, account string) map[string]answer {
	t.Helper()
	service := &corev1.Service{}
	if err := api.Get(deadline(t), types.NamespacedName{Namespace: v1alpha1.SystemNamespace, Name: deploy.Watcher}, service); err != nil {
		t.Fatal(err)
	}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: account},
		Spec: corev1.PodSpec{
			ServiceAccountName: account, RestartPolicy: corev1.RestartPolicyNever,
			Containers: []corev1.Container{{
				Name: "curl", Image: curlImage, ImagePullPolicy: corev1.PullIfNotPresent, Command: []string{"sh", "-c", curls},
				Env:          []corev1.EnvVar{{Name: "NAMESPACE", Value: namespace}, {Name: "ADDRESS", Value: service.Spec.ClusterIP}},
				VolumeMounts: []corev1.VolumeMount{{Name: "authority", MountPath: "/authority"}},
			}},
			Volumes: []corev1.Volume{{Name: "authority", VolumeSource: corev1.VolumeSource{
				ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "authority"}}}}},
		},
	}
	create(t, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: account}}, pod)
	err := observe.Until(deadline(t), "the requests of "+account+" are answered", func(ctx context.Context) (bool, string, error) {
		err := api.Get(ctx, types.NamespacedName{Namespace: namespace, Name: account}, pod)
		done := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
		return done, fmt.Sprintf("the pod is %s: %v", pod.Status.Phase, pod.Status.ContainerStatuses), err
	})
	if err != nil {
		t.Fatal(err)
	}
	text, err := logOf(deadline(t), pod)
	if err != nil {
		t.Fatal(err)
	}
	answers := map[string]answer{}
	for line := range strings.Lines(text) {
		name, rest, _ := strings.Cut(line, " ")
		status, body, _ := strings.Cut(rest, " ")
		answers[name] = answer{status, strings.TrimSpace(body)}
	}
	if len(answers) != strings.Count(curls, "\nask ") {
		t.Errorf("the script printed:\n%s", text)
	}
	return answers
}

// authority is the certificate of Lifeboat's authority.
func authority(t *testing.T) []byte {
	t.Helper()
	var hooks admissionv1.MutatingWebhookConfiguration
	if err := api.Get(deadline(t), types.NamespacedName{Name: "lifeboat"}, &hooks); err != nil {
		t.Fatal(err)
	}
	if len(hooks.Webhooks) == 0 || len(hooks.Webhooks[0].ClientConfig.CABundle) == 0 {
		t.Fatal("the webhook has no authority")
	}
	return hooks.Webhooks[0].ClientConfig.CABundle
}

func loadCurl(t *testing.T) {
	t.Helper()
	folder, err := config.Folder()
	if err != nil {
		t.Fatal(err)
	}
	archive, err := image.FromDebian(deadline(t), filepath.Join(folder, "cache"), curlImage, []string{"curl", "ca-certificates"}, []string{"curl"})
	if err != nil {
		t.Fatal(err)
	}
	if err := lab.LoadImage(deadline(t), archive); err != nil {
		t.Fatal(err)
	}
}

// mover is the token of a ServiceAccount that may move every pod.
func mover(t *testing.T, namespace string) string {
	t.Helper()
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "mover"}}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: namespace + "-mover"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "lifeboat-edit"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: account.Name}},
	}
	create(t, account, binding)
	t.Cleanup(func() { _ = api.Delete(context.Background(), binding) })
	config, err := lab.RESTConfig()
	if err != nil {
		t.Fatal(err)
	}
	clientset, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	token, err := clientset.CoreV1().ServiceAccounts(namespace).CreateToken(deadline(t), account.Name, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return token.Status.Token
}

// askAPI sends a request to the REST API, by its Service.
func askAPI(t *testing.T, token, path string, body any) (status int, answer []byte) {
	t.Helper()
	service := &corev1.Service{}
	if err := api.Get(deadline(t), types.NamespacedName{Namespace: v1alpha1.SystemNamespace, Name: deploy.Watcher}, service); err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority(t))
	const host = "lifeboat-watcher.lifeboat-system.svc"
	https := &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}, DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return lab.Dial(ctx, network, net.JoinHostPort(service.Spec.ClusterIP, "8443"))
		},
	}}
	text, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(deadline(t), http.MethodPost, "https://"+host+path, bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	request.Header.Set("Content-Type", "application/json")
	response, err := https.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	answer, err = io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, answer
}
