# A database image that behaves as the official one does in what docker-compose.yml relies on.
FROM datasync-test-postgres
ENV PGDATA=/var/lib/postgresql/data/docker
COPY --chmod=755 postgres-entrypoint.sh /usr/local/bin/docker-entrypoint.sh
RUN rm -rf /var/lib/postgresql/* /etc/postgresql && ln -s /usr/lib/postgresql/*/bin/* /usr/local/bin/ && \
    mkdir -p /var/run/postgresql && chown postgres:postgres /var/run/postgresql /var/lib/postgresql
VOLUME /var/lib/postgresql
STOPSIGNAL SIGINT
EXPOSE 5432
ENTRYPOINT ["docker-entrypoint.sh"]
CMD ["postgres"]
