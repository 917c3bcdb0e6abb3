package bucket

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/minio/minio-go/v7"

	"github.com/lifeboat-dev/lifeboat/checkpointer/store"
)

// explain says of a request's error what is wrong and what to do, and wraps
// the error of the store that it stands for.
func (b *Bucket) explain(err error) error {
	if err == nil {
		return nil
	}
	var request *url.Error
	if errors.As(err, &request) {
		err = request.Err // its URL is long, and says nothing that the endpoint does not
	}
	var response minio.ErrorResponse
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	var network *net.OpError
	switch {
	case errors.As(err, &response):
		return b.explainResponse(response)
	case errors.As(err, &unknown), errors.As(err, &host):
		return fmt.Errorf("the certificate of %s cannot be trusted: %w; give the certificates of its authority", b.config.Endpoint, err)
	case strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return fmt.Errorf("%s speaks HTTP without TLS: %w; correct the endpoint, or allow that", b.config.Endpoint, err)
	case errors.As(err, &network) && network.Op != "dial", errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("the connection to %s broke: %w", b.config.Endpoint, err)
	case network != nil:
		return fmt.Errorf("%s cannot be reached: %w; is the endpoint right, and the server up?", b.config.Endpoint, err)
	}
	return err
}

func (b *Bucket) explainResponse(response minio.ErrorResponse) error {
	switch code := response.Code; {
	case code == minio.NoSuchKey:
		return fmt.Errorf("%s: %w: %w", response.Key, errMissing, response)
	case code == minio.NoSuchBucket:
		return fmt.Errorf("%s has no bucket %q: make it, or correct its name: %w", b.config.Endpoint, b.config.Bucket, response)
	// The last one is versitygw's, the others are Amazon's.
	case code == "InvalidAccessKeyId", code == "SignatureDoesNotMatch", code == "InvalidTokenId", code == "ExpiredToken", code == "XAdminUserNotFound":
		return fmt.Errorf("%s does not accept the credentials: correct the access key and its secret: %w", b.config.Endpoint, response)
	case code == "RequestTimeTooSkewed":
		return fmt.Errorf("the clock of this node is not that of %s: set it right: %w", b.config.Endpoint, response)
	case code == "AuthorizationHeaderMalformed", code == "InvalidRegion", code == "PermanentRedirect":
		return fmt.Errorf("the bucket is in another region, %q: correct the region: %w", response.Region, response)
	case response.StatusCode == http.StatusInsufficientStorage, code == "QuotaExceeded", strings.HasSuffix(code, "StorageFull"),
		strings.HasSuffix(code, "QuotaExceeded"):
		return fmt.Errorf("the bucket has no room left: make it larger, or keep fewer generations: %w: %w", store.ErrBudget, response)
	case code == minio.AccessDenied:
		return fmt.Errorf("it is denied: allow these credentials s3:ListBucket, s3:GetObject, s3:PutObject and s3:DeleteObject on %s, "+
			"s3:AbortMultipartUpload, s3:ListBucketMultipartUploads and s3:ListMultipartUploadParts too: %w", b.Name(), response)
	}
	return response
}

// errMissing means that there is no such object.
var errMissing = errors.New("it is not in the bucket")

// uploadGone is whether an error shows that a multipart upload has ended: it
// was completed, or aborted.
func uploadGone(err error) bool {
	var response minio.ErrorResponse
	return errors.As(err, &response) && response.Code == "NoSuchUpload"
}
