package bucket

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/lifeboat-dev/lifeboat/checkpointer/transfer"
)

// Config says where the bucket is, and who asks.
type Config struct {
	// Endpoint is the server's host, and its port where that is not the usual one.
	Endpoint string
	Bucket   string
	// Region is where the bucket is; when it is empty, the server is asked.
	Region string
	// Prefix is the folder of all objects in the bucket; empty means its root.
	// Clusters that share a bucket have different ones.
	Prefix string
	// AccessKey and SecretKey, and SessionToken if there is one, are the
	// credentials. When AccessKey is empty they are those of the environment,
	// AWS_ACCESS_KEY_ID and so on, or of the file that
	// AWS_SHARED_CREDENTIALS_FILE names.
	AccessKey, SecretKey, SessionToken string
	// CAFile has the certificates, as PEM, that the server's is checked against;
	// when it is empty, those of the system are used.
	CAFile string
	// Insecure uses HTTP without TLS. What is sent is encrypted all the same.
	Insecure bool
	// Limiter bounds how fast copies are sent, to this and other holders; nil means no bound.
	Limiter *transfer.Limiter
	// Logger reports what is left out of a list; nil means slog.Default().
	Logger *slog.Logger
}

const (
	// dialTimeout bounds a connection's setup, and TLS's handshake.
	dialTimeout = 3 * time.Second
	// parallel is how many parts of a file, or files, are on their way at once:
	// many servers give one connection only a share of what they can do.
	parallel = 4
)

func (c Config) validate() error {
	switch {
	case c.Endpoint == "":
		return errors.New("no endpoint is given")
	case strings.Contains(c.Endpoint, "/"):
		return fmt.Errorf("endpoint %q: give a host and port alone, without scheme and path", c.Endpoint)
	case c.Bucket == "":
		return errors.New("no bucket is given")
	case strings.Contains(c.Bucket, "/"):
		return fmt.Errorf("bucket %q: give its name alone; a folder in it is the prefix", c.Bucket)
	}
	for part := range strings.SplitSeq(strings.Trim(c.Prefix, "/"), "/") {
		if part == "." || part == ".." || part == "" && c.prefix() != "" {
			return fmt.Errorf("prefix %q: give folders as in a/b", c.Prefix)
		}
	}
	return nil
}

// prefix is what the names of all objects begin with: empty, or with a slash at its end.
func (c Config) prefix() string {
	trimmed := strings.Trim(c.Prefix, "/")
	if trimmed == "" {
		return ""
	}
	return trimmed + "/"
}

func (c Config) client() (*minio.Core, error) {
	provider := credentials.NewStaticV4(c.AccessKey, c.SecretKey, c.SessionToken)
	if c.AccessKey == "" {
		provider = credentials.NewChainCredentials([]credentials.Provider{
			&credentials.EnvAWS{},
			&credentials.FileAWSCredentials{Filename: os.Getenv("AWS_SHARED_CREDENTIALS_FILE")},
		})
		// Without any, requests would be sent unsigned, and the server's error would mislead.
		if found, err := provider.GetWithContext(nil); err != nil || found.AccessKeyID == "" {
			return nil, errors.New("no credentials: set the environment variables AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, " +
				"or AWS_SHARED_CREDENTIALS_FILE to a file that has them")
		}
	}
	roots, err := c.roots()
	if err != nil {
		return nil, err
	}
	return minio.NewCore(c.Endpoint, &minio.Options{
		Creds:  provider,
		Secure: !c.Insecure,
		Region: c.Region,
		Transport: attempts{&http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           (&net.Dialer{Timeout: dialTimeout}).DialContext,
			TLSHandshakeTimeout:   dialTimeout,
			TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
			MaxIdleConnsPerHost:   4 * parallel,
			IdleConnTimeout:       time.Minute,
			ExpectContinueTimeout: time.Second,
			// A compressed answer's length would not be the object's.
			DisableCompression: true,
		}},
	})
}

// roots are the certificates of CAFile; nil means the system's.
func (c Config) roots() (*x509.CertPool, error) {
	if c.CAFile == "" {
		return nil, nil
	}
	text, err := os.ReadFile(c.CAFile)
	if err != nil {
		return nil, fmt.Errorf("read the certificates of the bucket's server: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s has no certificate in PEM form", c.CAFile)
	}
	return pool, nil
}
