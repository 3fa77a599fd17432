import json

from django.contrib.auth.models import AnonymousUser, User
from django.http import HttpResponse
from django.urls import path
from django.views.decorators.http import require_http_methods

from shop.models import Order, OrderEvent


class HeaderLogin:
    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        name = request.headers.get("X-User")
        request.user = User(username=name) if name else AnonymousUser()
        return self.get_response(request)


@require_http_methods(["POST"])
def orders(request):
    asked = json.loads(request.body)
    order = Order.objects.create(id=asked["id"], note=asked["note"])
    OrderEvent.objects.create(order=order, note=asked["note"])
    return HttpResponse(status=201)


@require_http_methods(["PUT"])
def order(request, id):
    Order.objects.filter(id=id).update(note=json.loads(request.body)["note"])
    return HttpResponse(status=204)


urlpatterns = [path("orders", orders), path("orders/<int:id>", order)]
