"""More spellings of forbidden URLs; `bad_inputs.json` has one of each kind."""

# ruff: noqa: RUF001 (look-alike characters are the point of the test)

LOOPBACK = [
    *("http://127.0.0.1./", "http://127.0.0.1:80/", "https://127.0.0.1/", "HTTP://127.0.0.1/"),
    *("http://0x7f.0.0.1/", "http://0x7f000001/", "http://017700000001/", "http://127.0.1/"),
    *("http://127.000.000.001/", "http://127.1.1/", "http://0/", "http://00000000/", "http://0.0/"),
    *("http://127.255.255.254/", "http://0.0.0.0:80/", "http://[::]:80/", "http://[::1]:80/"),
    *("http://[::ffff:7f00:1]/", "http://[0:0:0:0:0:ffff:127.0.0.1]/", "http://[::7f00:1]/"),
    *("http://[::ffff:0:127.0.0.1]/", "http://[0:0:0:0:0:0:0:1]/", "http://[::0001]/"),
    *("http://[64:ff9b::7f00:1]/", "http://[64:ff9b::127.0.0.1]/", "http://[64:ff9b:1::7f00:1]/"),
    *("http://[2002:7f00:1::]/", "http://[2002:7f00:1::1]/", "http://[2001:0:7f00:1::]/"),
    *("http://[2001::7f00:1]/", "http://[2606:4700::5efe:127.0.0.1]/", "http://[fe80::1]/"),
    *("http://[::1%25lo]/", "http://[::1%lo]/", "http://[fe80::1%25lo]/", "http://[fec0::1]/"),
    *("http://１２７.0.0.1/", "http://①②⑦.⓪.⓪.①/", "http://127．0．0．1/", "http://127｡0｡0｡1/"),
    *("http://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ/", "http://ｌocalhost/", "http://localhost:443/", "http://LocalHost./"),
    *("http://%31%32%37.0.0.1/", "http://127%2e0%2e0%2e1/", "http://%6cocalhost/"),
    *("http://ip6-localhost/", "http://ip6-loopback/", "http://localhost.localdomain/"),
]
PRIVATE = [
    *("http://10.0.0.1/", "http://172.16.0.1/", "http://192.168.1.1/", "http://169.254.170.2/"),
    *("http://100.64.0.1/", "http://198.18.0.1/", "http://224.0.0.1/", "http://255.255.255.255/"),
    *("http://192.0.2.1/", "http://240.0.0.1/", "http://192.88.99.1/", "http://[ff02::1]/"),
    *("http://[fc00::1]/", "http://[fd00::1]/", "http://[2001:db8::1]/", "http://[3fff::1]/"),
    *("http://[::ffff:a9fe:a9fe]/", "http://[64:ff9b::a9fe:a9fe]/", "http://0xa9fea9fe/"),
    *("http://[2002:a9fe:a9fe::]/", "http://2852039166/", "http://169.254.43518/", "http://[::2]/"),
    *("http://metadata.google.internal/computeMetadata/v1/", "http://instance-data/"),
]
USERINFO = [
    *("http://images.example.com@127.0.0.1/", "http://images.example.com:80@127.0.0.1/"),
    *("http://@127.0.0.1/", "http://:@127.0.0.1/", "http://@images.example.com/"),
    *("http://:@images.example.com/", "http://a:b:c@images.example.com/", "http://%40@127.0.0.1/"),
    *("http://images.example.com%40127.0.0.1/", "http://127.0.0.1%2f@images.example.com/"),
    *("http://127.0.0.1\\@images.example.com/", "http://images.example.com\\@127.0.0.1/"),
    *("http://127.0.0.1?@images.example.com/", "http://127.0.0.1/@images.example.com/"),
    *("http://127.0.0.1;@images.example.com/", "http://127.0.0.1&@images.example.com/"),
]
FORM = [
    *(
        "http:127.0.0.1/",
        "http:/127.0.0.1/",
        "http:///127.0.0.1/",
        "http:\\\\127.0.0.1\\",
        "http://",
    ),
    *("http:", "://", "http://?", "http://#", "http://.", "http://./", "http://..", "http://a..b/"),
    *(
        "http://[::1",
        "http://::1]/",
        "http://[]/",
        "http://[v1.x]/",
        "http://[127.0.0.1]/",
        "?",
        "#",
    ),
    *(
        "http://images.example.com:abc/",
        "http://images.example.com:-80/",
        "http://a b/",
        "http://*/",
    ),
    *("http://images.example.com:８1/", "http://images.example.com:81/", "http://[::1]:65536/"),
    *("http://images.example.com:80:80/", "http://images.example.com,127.0.0.1/", "http://\\/"),
    *(
        f"http://{'a' * 64}.example/",
        f"http://{'a.' * 140}example/",
        "http://xn--/",
        "http://xn--a/",
    ),
    *("http://images.example.com/\u2028", "http://images.example.com/\u200b", "http://\u00ad/"),
    *("http://images.example.com/\x7f", "http://images.example.com/\u0085", "\ufeffhttp://a/"),
    *("http://images.example.com/a\u00a0b", "http://images.example.com/\u2066x", "http://\u202e/"),
    *("blob:http://images.example.com/1", "javascript:alert(1)", "ws://images.example.com/"),
    *("view-source:http://images.example.com/", "feed:http://images.example.com/", "unix:///run/x"),
    *(
        "sftp://images.example.com/a",
        "ldap://127.0.0.1/",
        "dict://127.0.0.1:11211/stat",
        "about:blank",
    ),
    *(
        "http+unix://%2fvar%2frun%2fdocker.sock/info",
        "file://localhost/etc/passwd",
        "FILE:/etc/passwd",
    ),
    *("data:,x", "data:image/png,x", "data:text/html;base64,PGI+", "data:image/png;base64,"),
    *("data:image/png;base64,AAA", "data:image/png;base64,AA=A", "data:image/png;base64,AAAA AAAA"),
    *("data:image/svg+xml;base64,PHN2Zz4=", "data://image/png;base64,AAAA", "data:;base64,AAAA"),
]
ALL = [*LOOPBACK, *PRIVATE, *USERINFO, *FORM]
