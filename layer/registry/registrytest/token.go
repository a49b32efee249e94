package registrytest

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	tokenService = "test registry"
	tokenIssuer  = "test issuer"
	// IdentityToken is the refresh token that the token server takes by OAuth2.
	IdentityToken = "identity-of-strake"
)

// TokenServer gives out bearer tokens, by Docker's token authentication specification. User may do everything, except to
// repositories under "denied/"; anybody may pull what is under "public/".
type TokenServer struct {
	URL    string // the realm
	bundle string
	der    []byte
	key    *rsa.PrivateKey

	mu    sync.Mutex
	asked []string
}

// startTokens runs a token server until the test ends.
func startTokens(t testing.TB, dir, cert, key string) *TokenServer {
	t.Helper()
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "token signer"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true,
	}
	s := &TokenServer{key: private, bundle: filepath.Join(dir, "tokens.pem")}
	if s.der, err = x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private); err != nil {
		t.Fatal(err)
	}
	write(t, s.bundle, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.der})))
	scheme := "http://"
	if cert != "" {
		scheme = "https://"
	}
	s.URL = scheme + serve(t, s, cert, key) + "/token"
	return s
}

// Asked returns the scopes of all tokens that were asked for, in order: those of one token with spaces between them.
func (s *TokenServer) Asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

// ServeHTTP gives a token for what the user may do of what was asked for.
func (s *TokenServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.ParseForm() != nil {
		http.Error(w, "bad form", http.StatusBadRequest)
		return
	}
	user, password, basic := r.BasicAuth()
	known := basic && user == User && password == Password
	if r.Method == http.MethodPost {
		known = r.PostForm.Get("grant_type") == "refresh_token" && r.PostForm.Get("refresh_token") == IdentityToken
		if !known {
			http.Error(w, `{"error":"invalid_grant"}`, http.StatusBadRequest)
			return
		}
	} else if basic && !known {
		http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"wrong password"}]}`, http.StatusUnauthorized)
		return
	}
	scopes := strings.Fields(strings.Join(r.Form["scope"], " "))
	s.mu.Lock()
	s.asked = append(s.asked, strings.Join(scopes, " "))
	s.mu.Unlock()
	type access struct {
		Type    string   `json:"type"`
		Name    string   `json:"name"`
		Actions []string `json:"actions"`
	}
	granted := []access{}
	for _, scope := range scopes {
		p := strings.SplitN(scope, ":", 3)
		if len(p) != 3 || strings.HasPrefix(p[1], "denied/") {
			continue
		}
		switch {
		case known:
			granted = append(granted, access{p[0], p[1], strings.Split(p[2], ",")})
		case strings.HasPrefix(p[1], "public/"):
			granted = append(granted, access{p[0], p[1], []string{"pull"}})
		}
	}
	token, err := s.sign(map[string]any{
		"iss": tokenIssuer, "sub": user, "aud": tokenService, "access": granted, "jti": rand.Text(),
		"nbf": time.Now().Add(-time.Minute).Unix(), "iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix(),
	})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"token": token, "expires_in": 3600}) // the client's loss
}

// sign makes a JSON web token, RS256 with the certificate in its header.
func (s *TokenServer) sign(claims map[string]any) (string, error) {
	header, err := json.Marshal(map[string]any{"typ": "JWT", "alg": "RS256", "x5c": []string{base64.StdEncoding.EncodeToString(s.der)}})
	if err != nil {
		return "", err
	}
	body, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	text := base64.RawURLEncoding.EncodeToString(header) + "." + base64.RawURLEncoding.EncodeToString(body)
	digest := sha256.Sum256([]byte(text))
	signature, err := rsa.SignPKCS1v15(rand.Reader, s.key, crypto.SHA256, digest[:])
	if err != nil {
		return "", err
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(signature), nil
}
